//! Being held wherever it is, and what becomes of those who are.

use std::time::Duration;

use skep_client::protocol::AgentSpec;
use skep_client::protocol::spec::{OnFuelExhausted, Stdin};

use super::calls::poll_many;
use super::wat::command;
use super::{Act, Case, Ends, SOME_FUEL, SOON_MS};
use crate::guests::{probe, spec};

/// What one has who was asked to stop.
const GRACE: Duration = Duration::from_millis(100);
const LONG_GRACE: Duration = Duration::from_secs(60);

pub(super) fn cases() -> Vec<Case> {
    [held(), stopped(), without_fuel()].concat()
}

fn spinner() -> AgentSpec {
    command("(loop $l br $l) i32.const 0", "")
}

/// Held, let go, held again, and killed.
fn held() -> Vec<Case> {
    let case = |what, mut spec: AgentSpec, first: &[Act]| {
        // Handles that are lent count as well.
        spec.limits.handles = Some(10_000);
        let again = [Act::Pause, Act::Pause, Act::Resume, Act::Pause, Act::Kill];
        Case::new("pauses", what, spec, Ends::Killed).acts(&[first, &again].concat())
    };
    let mut reader = spec("echo", &[]);
    reader.stdin = Stdin::Open;
    let starts = command("i32.const 0", "(func $s (loop $l br $l)) (start $s)");
    let begun = &[Act::Begun];
    let mut for_ever = Case::new("pauses", "for ever", spinner(), Ends::PausedTooLong)
        .acts(&[Act::Begun, Act::Pause]);
    for_ever.spec.limits.paused_ms = Some(SOON_MS);
    vec![
        case("in a loop", spinner(), begun),
        case("in a sleep", probe(&["sleep", "600000"]), begun),
        case("while it reads", reader, begun),
        case("in calls", poll_many(0, 9_000, "(br $again)"), begun),
        case("in a call that waits", poll_many(-1, 9_000, ""), begun),
        case("while it starts", starts, &[]),
        case("at once", spinner(), &[]),
        for_ever,
        Case::new("pauses", "and lives on", probe(&["until-stop"]), {
            Ends::Stopped { forced: false }
        })
        .acts(&[
            Act::Written(1),
            Act::Pause,
            Act::Resume,
            Act::Stop(LONG_GRACE),
        ])
        .writing(b"ready\nstopping\n".to_vec()),
    ]
}

fn stopped() -> Vec<Case> {
    let case = |what, spec, acts: &[Act], forced| {
        Case::new("pauses", what, spec, Ends::Stopped { forced }).acts(acts)
    };
    vec![
        case(
            "asked to stop while paused",
            probe(&["until-stop"]),
            &[Act::Written(1), Act::Pause, Act::Stop(LONG_GRACE)],
            false,
        )
        .writing(b"ready\nstopping\n".to_vec()),
        case(
            "asked to stop while paused, and deaf",
            probe(&["spin"]),
            &[Act::Begun, Act::Pause, Act::Stop(GRACE)],
            true,
        ),
    ]
}

fn without_fuel() -> Vec<Case> {
    let case = |what, spec, acts: &[Act], ends| {
        let mut case = Case::new("pauses", what, spec, ends)
            .fuel(1_000_000)
            .acts(&[&[Act::OutOfFuel], acts].concat());
        case.spec.on_fuel_exhausted = OnFuelExhausted::Pause;
        case
    };
    // It is held at the first tick after, and must not have ended by then.
    let countdown = "(local $n i32) i32.const 10000000 local.set $n \
        (loop $l local.get $n i32.const 1 i32.sub local.tee $n br_if $l) i32.const 0";
    vec![
        case(
            "out of fuel, and killed",
            spinner(),
            &[Act::Kill],
            Ends::Killed,
        ),
        case(
            "out of fuel twice, and killed",
            spinner(),
            &[Act::Refuel(1_000_000), Act::OutOfFuel, Act::Kill],
            Ends::Killed,
        ),
        case(
            "out of fuel, and asked to stop",
            probe(&["spin"]),
            &[Act::Stop(GRACE)],
            Ends::Stopped { forced: true },
        ),
        case(
            "out of fuel, and given some",
            command(countdown, ""),
            &[Act::Refuel(20 * SOME_FUEL)],
            Ends::Exited(0),
        ),
    ]
}
