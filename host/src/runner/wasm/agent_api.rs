//! The host's side of `skep:agent`: what the guest was asked to do, how far it
//! has come, and whether it should stop. Nothing here waits, and nothing grows
//! with what a guest reports.

use serde_bytes::ByteBuf;
use skep_protocol::event::Preview;

use self::bindings::skep::agent::{control, progress, task};
use super::refusal::cut;
use super::store::Held;
use super::verdict::Exit;
use crate::runner::Progress;

/// What `wit/` generates.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::indexing_slicing,
    reason = "generated code"
)]
pub(super) mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "agent",
        imports: { "skep:agent/control.exit": trappable },
    });
}

const MAX_STAGE: usize = 128;
const MAX_NOTE: usize = 1024;
const MAX_MIME: usize = 128;
/// A larger preview is dropped: half a picture is none.
const MAX_PREVIEW: usize = 1024 * 1024;

impl task::Host for Held {
    fn name(&mut self) -> String {
        self.name.clone()
    }

    fn task(&mut self) -> String {
        self.task.task.clone()
    }

    fn context(&mut self) -> String {
        self.task.context.clone()
    }

    fn system_prompt(&mut self) -> String {
        self.task.system_prompt.clone()
    }

    fn model(&mut self) -> String {
        self.task.model.clone()
    }

    fn labels(&mut self) -> Vec<(String, String)> {
        self.task
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

impl progress::Host for Held {
    fn report(&mut self, update: progress::Update) {
        self.progress.send_replace(Some(shortened(update)));
    }
}

impl control::Host for Held {
    fn stop_requested(&mut self) -> bool {
        self.orders.stop_asked()
    }

    fn exit(&mut self, code: u8) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(Exit(code)))
    }
}

fn shortened(update: progress::Update) -> Progress {
    let short = |mut text: String, most| {
        cut(&mut text, most);
        // What was cut off is not kept in the allocation either.
        text.shrink_to_fit();
        text
    };
    let fraction = update.fraction.filter(|fraction| !fraction.is_nan());
    let preview = update
        .preview
        .filter(|preview| preview.data.len() <= MAX_PREVIEW);
    Progress {
        stage: short(update.stage, MAX_STAGE),
        step: update.step,
        total: update.total,
        fraction: fraction.map(|fraction| fraction.clamp(0.0, 1.0)),
        eta_ms: update.eta_ms,
        note: update.note.map(|note| short(note, MAX_NOTE)),
        preview: preview.map(|preview| Preview {
            mime: short(preview.mime, MAX_MIME),
            data: ByteBuf::from(preview.data),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_shortened() {
        let report = |fraction, size| {
            shortened(progress::Update {
                stage: "é".repeat(MAX_STAGE),
                step: Some(u64::MAX),
                total: None,
                fraction: Some(fraction),
                eta_ms: None,
                note: Some("n".repeat(2 * MAX_NOTE)),
                preview: Some(progress::Preview {
                    mime: "m".repeat(1000),
                    data: vec![0; size],
                }),
            })
        };
        let short = report(7.0, MAX_PREVIEW);
        assert_eq!(short.stage, "é".repeat(MAX_STAGE / 2));
        assert_eq!(short.fraction, Some(1.0));
        assert_eq!(short.note.unwrap().len(), MAX_NOTE);
        assert_eq!(short.preview.unwrap().mime.len(), MAX_MIME);
        let short = report(f64::NAN, MAX_PREVIEW + 1);
        assert_eq!(short.fraction, None);
        assert_eq!(short.preview, None);
        assert_eq!(report(f64::NEG_INFINITY, 0).fraction, Some(0.0));
    }
}
