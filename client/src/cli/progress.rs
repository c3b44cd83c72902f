//! How far an agent has come: a bar at the bottom of a terminal, and lines now
//! and then where there is none.

use std::io;
use std::time::Duration;

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use skep_client::protocol::event::ProgressEvent;
use tokio::time::Instant;

use super::text;

/// How long nothing must have been written before the bar is drawn again below
/// it: a bar that is drawn after each of many lines is a flicker.
const STILL: Duration = Duration::from_millis(100);
/// Lines come this often at most, but for the first of a stage.
const EVERY: Duration = Duration::from_secs(1);
/// The steps of a bar.
const LENGTH: u64 = 1000;
/// As much of a stage as stands before its bar.
const STAGE_WIDTH: usize = 24;

/// The most drawings a second.
const HZ: u8 = 20;
/// As much as the echo of Ctrl-C takes.
const ECHO: u16 = 4;

/// The terminal of stderr, without its last columns: a bar fills its line, and
/// the echo of a key behind it would begin another, so that the bar stayed.
#[derive(Debug)]
struct Narrow(Term);

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        self.0.size().1.saturating_sub(ECHO)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A bar on the terminal of stderr, below what is written.
#[derive(Debug, Default)]
pub(super) struct Bar {
    drawn: Option<ProgressBar>,
    last: Option<ProgressEvent>,
    due: Option<Instant>,
}

impl Bar {
    /// Takes a report, to be drawn at once or when there is a place.
    pub(super) fn report(&mut self, progress: &ProgressEvent) {
        self.last = Some(ProgressEvent {
            preview: None,
            ..progress.clone()
        });
        if self.due.is_none() {
            self.due = Some(Instant::now());
        }
    }

    /// Takes the bar away, so that something else may be written; whether there
    /// was one.
    pub(super) fn hide(&mut self) -> bool {
        let drawn = self.drawn.take();
        if let Some(bar) = &drawn {
            bar.finish_and_clear();
        }
        drawn.is_some()
    }

    /// Something else was written.
    pub(super) fn wrote(&mut self) {
        self.due = self.last.is_some().then(|| Instant::now() + STILL);
    }

    /// When it should be drawn.
    pub(super) fn draw_at(&self) -> Option<Instant> {
        self.due
    }

    /// Draws it, unless that would write over a line that has not ended.
    pub(super) fn draw(&mut self, line_is_open: bool) {
        self.due = None;
        let Some(progress) = self.last.as_ref().filter(|_| !line_is_open) else {
            return;
        };
        let bar = self.drawn.get_or_insert_with(|| {
            let narrow =
                ProgressDrawTarget::term_like_with_hz(Box::new(Narrow(Term::stderr())), HZ);
            ProgressBar::with_draw_target(Some(LENGTH), narrow)
        });
        let done = permille(progress);
        let template = match done {
            Some(_) => "{spinner} {prefix} [{bar:20.cyan}] {wide_msg}",
            None => "{spinner} {prefix} {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        let stage = text::clean(&progress.stage);
        bar.set_prefix(console::truncate_str(&stage, STAGE_WIDTH, "…").into_owned());
        bar.set_message(rest(progress));
        bar.set_position(done.unwrap_or(0));
        bar.tick();
    }
}

/// Lines where there is no terminal.
#[derive(Debug, Default)]
pub(super) struct Lines {
    last: Option<(String, Instant)>,
}

impl Lines {
    /// What to write of a report, if it is time.
    pub(super) fn report(&mut self, progress: &ProgressEvent) -> Option<String> {
        let now = Instant::now();
        let told = |(stage, at): &(String, Instant)| {
            *stage == progress.stage && now.duration_since(*at) < EVERY
        };
        if self.last.as_ref().is_some_and(told) {
            return None;
        }
        self.last = Some((progress.stage.clone(), now));
        Some(describe(progress))
    }
}

/// How much is done, as far as that is known.
pub(super) fn fraction(progress: &ProgressEvent) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a bar has fewer steps")]
    let of_steps = || match (progress.step, progress.total) {
        (Some(step), Some(total)) if total > 0 => Some(step as f64 / total as f64),
        _ => None,
    };
    let fraction = progress.fraction.filter(|fraction| fraction.is_finite());
    Some(fraction.or_else(of_steps)?.clamp(0.0, 1.0))
}

fn permille(progress: &ProgressEvent) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "it lies between 0 and the length"
    )]
    fraction(progress).map(|fraction| (fraction * LENGTH as f64) as u64)
}

/// `reading 3/10 30% 5 s left: page 3`
pub(super) fn describe(progress: &ProgressEvent) -> String {
    let line = format!("{} {}", text::clean(&progress.stage), rest(progress));
    line.trim().to_owned()
}

/// `3/10 30% 5 s left: page 3`
fn rest(progress: &ProgressEvent) -> String {
    let ProgressEvent {
        step,
        total,
        fraction,
        eta_ms,
        note,
        ..
    } = progress;
    let mut parts = Vec::new();
    match (step, total) {
        (Some(step), Some(total)) => parts.push(format!("{step}/{total}")),
        (Some(step), None) => parts.push(step.to_string()),
        _ => {}
    }
    if let Some(fraction) = fraction.filter(|fraction| fraction.is_finite()) {
        parts.push(format!("{:.0}%", fraction.clamp(0.0, 1.0) * 100.0));
    }
    if let Some(eta_ms) = eta_ms {
        parts.push(format!("{} s left", eta_ms.div_ceil(1000)));
    }
    let line = parts.join(" ");
    match note {
        Some(note) => format!("{line}: {}", text::clean(note)),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use skep_client::protocol::AgentId;

    use super::*;

    fn stage(stage: &str) -> ProgressEvent {
        ProgressEvent {
            agent: AgentId::random(),
            stage: stage.to_owned(),
            step: None,
            total: None,
            fraction: None,
            eta_ms: None,
            note: None,
            preview: None,
            time_ms: 0,
        }
    }

    #[test]
    fn one_line_tells_what_is_known() {
        let mut progress = stage("read\ning");
        assert_eq!(describe(&progress), "read\\ning");
        progress.step = Some(3);
        progress.total = Some(10);
        assert_eq!(permille(&progress), Some(300));
        progress.fraction = Some(0.25);
        progress.eta_ms = Some(4001);
        progress.note = Some("page\x1b[2J 3".to_owned());
        assert_eq!(
            describe(&progress),
            "read\\ning 3/10 25% 5 s left: page\\u{1b}[2J 3"
        );
        assert_eq!(permille(&progress), Some(250));
    }

    #[test]
    fn wild_numbers_make_no_wild_bars() {
        let mut progress = stage("x");
        for (fraction, step, total, done) in [
            (Some(f64::NAN), None, None, None),
            (Some(f64::INFINITY), Some(1), Some(2), Some(500)),
            (Some(-1.0), None, None, Some(0)),
            (Some(7.0), None, None, Some(LENGTH)),
            (None, Some(5), Some(0), None),
            (None, Some(u64::MAX), Some(1), Some(LENGTH)),
            (None, None, Some(3), None),
        ] {
            (progress.fraction, progress.step, progress.total) = (fraction, step, total);
            assert_eq!(permille(&progress), done, "{progress:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_come_now_and_then_and_for_each_stage() {
        let mut lines = Lines::default();
        assert!(lines.report(&stage("a")).is_some());
        assert!(lines.report(&stage("a")).is_none());
        assert!(lines.report(&stage("b")).is_some());
        tokio::time::advance(EVERY).await;
        assert!(lines.report(&stage("b")).is_some());
    }
}
