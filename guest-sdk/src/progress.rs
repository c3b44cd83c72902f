//! How far the agent has come.

use std::fmt;
use std::time::Duration;

use crate::host;

/// A report of how far the agent has come.
///
/// Say what is known, leave out the rest, and [`report`](Progress::report):
///
/// ```
/// use skep_guest::Progress;
///
/// Progress::stage("read").step(3).of(10).note("access.log").report();
/// Progress::stage("think").fraction(0.5).report();
/// ```
///
/// A report replaces the one before it. The host keeps the newest and passes
/// reports on at a rate of its own, so none ever slows the agent down.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "a report does nothing until `.report()` is called"]
pub struct Progress {
    pub(crate) stage: String,
    pub(crate) step: Option<u64>,
    pub(crate) total: Option<u64>,
    pub(crate) fraction: Option<f64>,
    pub(crate) eta: Option<Duration>,
    pub(crate) note: Option<String>,
    pub(crate) preview: Option<Preview>,
}

/// Something to look at before the result is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Preview {
    /// The media type of the data, such as `image/png` or `text/plain`.
    pub mime: String,
    /// The bytes themselves.
    pub data: Vec<u8>,
}

impl Progress {
    /// Begins a report: what the agent is doing now, in a word or two.
    pub fn stage(stage: impl Into<String>) -> Self {
        Self {
            stage: stage.into(),
            ..Self::default()
        }
    }

    /// How many units of work of this stage are done.
    pub fn step(mut self, done: u64) -> Self {
        self.step = Some(done);
        self
    }

    /// How many units of work this stage has.
    pub fn of(mut self, total: u64) -> Self {
        self.total = Some(total);
        self
    }

    /// How much of the whole task is done, from 0 to 1. What lies outside is
    /// taken as the nearer end, and what is no number is left out.
    pub fn fraction(mut self, done: f64) -> Self {
        self.fraction = (!done.is_nan()).then(|| done.clamp(0.0, 1.0));
        self
    }

    /// How long the rest of the task should take.
    pub fn eta(mut self, left: Duration) -> Self {
        self.eta = Some(left);
        self
    }

    /// A line for people.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Something to look at, such as `("image/png", bytes)`. A host may drop a
    /// preview that it finds too large.
    pub fn preview(mut self, mime: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        self.preview = Some(Preview {
            mime: mime.into(),
            data: data.into(),
        });
        self
    }

    /// Tells the host. Without one, it becomes a line on stderr.
    pub fn report(self) {
        host::report(self);
    }
}

/// One line: `read 3/10, 30 %, 12 s left: access.log [image/png, 512 bytes]`.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stage)?;
        match (self.step, self.total) {
            (Some(step), Some(total)) => write!(f, " {step}/{total}")?,
            (Some(step), None) => write!(f, " {step}")?,
            (None, Some(total)) => write!(f, " ?/{total}")?,
            (None, None) => {}
        }
        if let Some(fraction) = self.fraction {
            write!(f, ", {:.0} %", fraction * 100.0)?;
        }
        if let Some(eta) = self.eta {
            write!(f, ", {} s left", eta.as_secs())?;
        }
        if let Some(note) = &self.note {
            write!(f, ": {note}")?;
        }
        if let Some(preview) = &self.preview {
            write!(f, " [{preview:?}]")?;
        }
        Ok(())
    }
}

/// The size instead of the bytes, which say nothing to a reader of logs.
impl fmt::Debug for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} bytes", self.mime, self.data.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_what_is_known() {
        let full = Progress::stage("read")
            .step(3)
            .of(10)
            .fraction(0.3)
            .eta(Duration::from_millis(12_400))
            .note("access.log")
            .preview("image/png", vec![0; 512]);
        assert_eq!(
            full.to_string(),
            "read 3/10, 30 %, 12 s left: access.log [image/png, 512 bytes]"
        );
    }

    #[test]
    fn a_report_leaves_out_what_is_not() {
        assert_eq!(Progress::stage("read").to_string(), "read");
        assert_eq!(Progress::stage("read").step(3).to_string(), "read 3");
        assert_eq!(Progress::stage("read").of(3).to_string(), "read ?/3");
    }

    #[test]
    fn a_fraction_stays_within_its_bounds() {
        assert_eq!(Progress::stage("").fraction(1.5).fraction, Some(1.0));
        assert_eq!(Progress::stage("").fraction(-0.5).fraction, Some(0.0));
        assert_eq!(Progress::stage("").fraction(f64::NAN).fraction, None);
    }
}
