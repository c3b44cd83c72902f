//! The host's side of the contract, as imports of the component.

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from the WIT package, where the documentation is"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "agent",
    });
}

use bindings::skep::agent::{control, progress, task};

use crate::{Progress, Task};

pub(crate) fn task() -> Task {
    Task {
        name: task::name(),
        task: task::task(),
        context: task::context(),
        system_prompt: task::system_prompt(),
        model: task::model(),
        labels: task::labels().into_iter().collect(),
    }
}

pub(crate) fn report(update: Progress) {
    progress::report(&progress::Update {
        stage: update.stage,
        step: update.step,
        total: update.total,
        fraction: update.fraction,
        eta_ms: update
            .eta
            .map(|eta| u64::try_from(eta.as_millis()).unwrap_or(u64::MAX)),
        note: update.note,
        preview: update.preview.map(|preview| progress::Preview {
            mime: preview.mime,
            data: preview.data,
        }),
    });
}

pub(crate) fn stop_requested() -> bool {
    control::stop_requested()
}

pub(crate) fn exit(code: u8) -> ! {
    control::exit(code);
    // WIT has no way to say that a function never returns.
    core::arch::wasm32::unreachable()
}
