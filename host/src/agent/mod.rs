//! An agent's life: what it may become, and who may say so.
//!
//! ```text
//!   starting ─► running ─► stopping
//!      │           │          │
//!      │           ▼          ▼
//!      └───────► exited(outcome)
//! ```
//! A stop may also come while it starts. The [`driver`] is the only writer of
//! an agent's state; everyone else reads it through a [`handle`].

use skep_protocol::AgentState;

pub mod driver;
pub mod handle;
pub mod outcome;
pub mod spec;

/// What moves an agent from one state to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The guest runs.
    Run,
    /// It was asked to stop and has its grace.
    Stop,
    /// It has ended.
    End,
}

/// The state after a step; `None` where the step cannot be.
#[must_use]
pub const fn after(state: AgentState, step: Step) -> Option<AgentState> {
    use AgentState::{Exited, Running, Starting, Stopping};
    match (state, step) {
        (Starting, Step::Run) => Some(Running),
        (Starting | Running, Step::Stop) => Some(Stopping),
        (Starting | Running | Stopping, Step::End) => Some(Exited),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawing_is_the_table() {
        use AgentState::{Exited, Running, Starting, Stopping};
        let allowed = [
            (Starting, Step::Run, Running),
            (Starting, Step::Stop, Stopping),
            (Starting, Step::End, Exited),
            (Running, Step::Stop, Stopping),
            (Running, Step::End, Exited),
            (Stopping, Step::End, Exited),
        ];
        for from in AgentState::ALL {
            for step in [Step::Run, Step::Stop, Step::End] {
                let expected = allowed
                    .iter()
                    .find(|a| (a.0, a.1) == (from, step))
                    .map(|a| a.2);
                assert_eq!(after(from, step), expected, "{from:?} {step:?}");
            }
        }
    }
}
