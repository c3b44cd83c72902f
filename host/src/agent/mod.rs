//! An agent's life: what it may become, and who may say so.
//!
//! ```text
//!                  ┌───────────► paused ─────────┐
//!                  ▼                ▲ │           │
//!   queued ─► starting ─► running ◄─┼─┘           │
//!      │         │ │         │  └───┘             │
//!      │         │ └─────────┴─────► stopping ◄───┤
//!      │         │           │          │         │
//!      ▼         ▼           ▼          ▼         │
//!      └─────────┴───────► exited(outcome) ◄──────┘
//! ```
//! From paused it goes back to where it was held. An agent that is to run again
//! goes back to starting when its run has ended: there it waits for the next one
//! and keeps its slot, so that nobody else is given the room it was promised.
//!
//! One task is the only writer of an agent's state: it [waits](turn) for the
//! agent's turn, and then goes through its [`runs`], for each of which it is the
//! [`driver`]; everyone else reads the state through a [`handle`].

use skep_protocol::AgentState;

pub mod admission;
mod between;
pub mod clocks;
pub mod driver;
pub mod handle;
pub mod meter;
pub mod outcome;
pub mod pace;
pub mod publication;
pub mod queue;
pub mod restart;
pub mod runs;
pub mod slots;
pub mod spec;
pub mod turn;

/// What moves an agent from one state to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its turn has come, or its next run begins.
    Start,
    /// The guest runs.
    Run,
    /// It stands still.
    Pause,
    /// It goes on, having begun to run before it was held.
    Resume,
    /// It goes on, having been held while it started.
    ResumeStart,
    /// It was asked to stop and has its grace.
    Stop,
    /// Its run has ended and another will begin.
    Again,
    /// It has ended.
    End,
}

/// The state after a step; `None` where the step cannot be.
#[must_use]
pub const fn after(state: AgentState, step: Step) -> Option<AgentState> {
    use AgentState::{Exited, Paused, Queued, Running, Starting, Stopping};
    match (state, step) {
        (Queued | Starting, Step::Start)
        | (Paused, Step::ResumeStart)
        | (Starting | Running | Paused, Step::Again) => Some(Starting),
        (Starting, Step::Run) | (Paused, Step::Resume) => Some(Running),
        // It stands still right after its first instruction.
        (Starting | Running, Step::Pause) | (Paused, Step::Run) => Some(Paused),
        // Or it was asked to stop before that.
        (Starting | Running | Paused, Step::Stop) | (Stopping, Step::Run) => Some(Stopping),
        (Queued | Starting | Running | Paused | Stopping, Step::End) => Some(Exited),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawing_is_the_table() {
        use AgentState::{Exited, Paused, Queued, Running, Starting, Stopping};
        let allowed = [
            (Queued, Step::Start, Starting),
            (Queued, Step::End, Exited),
            (Starting, Step::Start, Starting),
            (Starting, Step::Again, Starting),
            (Running, Step::Again, Starting),
            (Paused, Step::Again, Starting),
            (Starting, Step::Run, Running),
            (Starting, Step::Stop, Stopping),
            (Starting, Step::End, Exited),
            (Starting, Step::Pause, Paused),
            (Running, Step::Pause, Paused),
            (Running, Step::Stop, Stopping),
            (Running, Step::End, Exited),
            (Paused, Step::Run, Paused),
            (Paused, Step::Resume, Running),
            (Paused, Step::ResumeStart, Starting),
            (Paused, Step::Stop, Stopping),
            (Paused, Step::End, Exited),
            (Stopping, Step::Run, Stopping),
            (Stopping, Step::End, Exited),
        ];
        for from in AgentState::ALL {
            for step in [
                Step::Start,
                Step::Run,
                Step::Pause,
                Step::Resume,
                Step::ResumeStart,
                Step::Stop,
                Step::Again,
                Step::End,
            ] {
                let expected = allowed
                    .iter()
                    .find(|a| (a.0, a.1) == (from, step))
                    .map(|a| a.2);
                assert_eq!(after(from, step), expected, "{from:?} {step:?}");
            }
        }
    }
}
