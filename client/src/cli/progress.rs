//! How far an agent has come, as one line at the bottom of a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use skep_client::protocol::event::ProgressEvent;

use super::text;

/// The line; drawn only where stderr is a terminal.
#[derive(Debug, Default)]
pub(super) struct ProgressLine(Option<ProgressBar>);

impl ProgressLine {
    /// Shows it below what is written.
    pub(super) fn show(&mut self, progress: &ProgressEvent) {
        let bar = self.0.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(describe(progress));
        bar.tick();
    }

    /// Takes the line away, so that something else may be written.
    pub(super) fn hide(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// `reading 3/10 30% 5 s left: page 3`
fn describe(progress: &ProgressEvent) -> String {
    let ProgressEvent {
        stage,
        step,
        total,
        fraction,
        eta_ms,
        note,
        ..
    } = progress;
    let mut line = text::clean(stage);
    match (step, total) {
        (Some(step), Some(total)) => line.push_str(&format!(" {step}/{total}")),
        (Some(step), None) => line.push_str(&format!(" {step}")),
        _ => {}
    }
    if let Some(fraction) = fraction.filter(|fraction| fraction.is_finite()) {
        line.push_str(&format!(" {:.0}%", fraction.clamp(0.0, 1.0) * 100.0));
    }
    if let Some(eta_ms) = eta_ms {
        line.push_str(&format!(" {} s left", eta_ms.div_ceil(1000)));
    }
    if let Some(note) = note {
        line.push_str(&format!(": {}", text::clean(note)));
    }
    line
}

#[cfg(test)]
mod tests {
    use skep_client::protocol::AgentId;

    use super::*;

    #[test]
    fn one_line_tells_what_is_known() {
        let mut progress = ProgressEvent {
            agent: AgentId::random(),
            stage: "read\ning".to_owned(),
            step: None,
            total: None,
            fraction: None,
            eta_ms: None,
            note: None,
            preview: None,
            time_ms: 0,
        };
        assert_eq!(describe(&progress), "read\\ning");
        progress.step = Some(3);
        progress.total = Some(10);
        progress.fraction = Some(0.3);
        progress.eta_ms = Some(4001);
        progress.note = Some("page 3".to_owned());
        assert_eq!(describe(&progress), "read\\ning 3/10 30% 5 s left: page 3");
        progress.fraction = Some(f64::NAN);
        assert!(!describe(&progress).contains('%'));
    }
}
