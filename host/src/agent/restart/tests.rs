use proptest::prelude::*;
use skep_protocol::Trap;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rule(policy: RestartPolicy) -> Rule {
    Rule::of(&Restart {
        policy,
        ..Restart::default()
    })
    .unwrap()
}

fn restarts(policy: RestartPolicy) -> Restarts {
    Restarts::new(rule(policy), &Before::default(), Instant::now())
}

fn failed(lasted: Duration) -> Ended<'static> {
    Ended {
        outcome: &Outcome::Exited { code: 1 },
        asked: false,
        lasted,
    }
}

fn start_failed(code: ErrorCode) -> Outcome {
    Outcome::StartFailed {
        code,
        message: String::new(),
    }
}

#[test]
fn who_runs_again_is_this_table() {
    // Whether it does: under on_failure, and under always.
    let table = [
        (Outcome::Exited { code: 0 }, false, true),
        (Outcome::Exited { code: 1 }, true, true),
        (
            Outcome::Trapped {
                trap: Trap::Unreachable,
                message: String::new(),
                backtrace: Vec::new(),
            },
            true,
            true,
        ),
        (Outcome::OutOfFuel { limit: 1 }, true, true),
        (
            Outcome::OutOfMemory {
                limit_bytes: 1,
                asked_bytes: 2,
            },
            true,
            true,
        ),
        (Outcome::Deadline { limit_ms: 1 }, true, true),
        (Outcome::Signaled { signal: 11 }, true, true),
        (Outcome::HostLost, true, true),
        (Outcome::Stopped { forced: false }, false, false),
        (Outcome::Stopped { forced: true }, false, false),
        (Outcome::Killed, false, false),
        (
            Outcome::HostFault {
                incident: String::new(),
            },
            false,
            false,
        ),
        (start_failed(ErrorCode::Capacity), true, true),
        (start_failed(ErrorCode::StorageUnavailable), true, true),
        (start_failed(ErrorCode::Internal), true, true),
        (start_failed(ErrorCode::InvalidComponent), false, false),
        (start_failed(ErrorCode::CompileLimit), false, false),
        (start_failed(ErrorCode::LimitTooSmall), false, false),
        (start_failed(ErrorCode::NotFound), false, false),
        (start_failed(ErrorCode::Denied), false, false),
    ];
    for (outcome, on_failure, always) in &table {
        for (policy, expected) in [
            (RestartPolicy::Never, false),
            (RestartPolicy::OnFailure, *on_failure),
            (RestartPolicy::Always, *always),
        ] {
            for asked in [false, true] {
                let ended = Ended {
                    outcome,
                    asked,
                    lasted: SECOND,
                };
                let next = restarts(policy).after(ended, Instant::now(), 1.0);
                let expected = match expected && !asked {
                    true => Next::After(SECOND),
                    false => Next::End,
                };
                assert_eq!(next, expected, "{policy:?} {outcome:?} {asked}");
            }
        }
    }
}

#[test]
fn waits_double_up_to_the_longest_and_begin_anew_after_a_lasting_run() {
    let mut restarts = restarts(RestartPolicy::Always);
    let done = |lasted| Ended {
        outcome: &Outcome::Exited { code: 0 },
        asked: false,
        lasted,
    };
    let now = Instant::now();
    let waits: Vec<_> = (0..11)
        .map(|_| restarts.after(done(SECOND), now, 1.0))
        .collect();
    let expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300];
    assert_eq!(waits, expected.map(|seconds| Next::After(seconds * SECOND)));
    assert_eq!(restarts.after(done(LASTING), now, 1.0), Next::After(SECOND));
    assert_eq!(restarts.after(done(SECOND), now, 0.0), Next::After(SECOND));
    // That it ends well is no crash loop, however often.
    assert_eq!((restarts.made(), restarts.failures()), (13, 0));
}

#[test]
fn a_crash_loop_ends_and_failures_far_apart_are_none() {
    let mut restarts = restarts(RestartPolicy::OnFailure);
    let start = Instant::now();
    for _ in 0..FAILURES {
        let next = restarts.after(failed(SECOND), start, 0.5);
        assert!(matches!(next, Next::After(_)), "{next:?}");
    }
    let mut looping = restarts.clone();
    assert_eq!(
        looping.after(failed(SECOND), start, 0.5),
        Next::GiveUp(GaveUp::CrashLoop)
    );
    assert_eq!(looping.failures(), FAILURES as u64 + 1);
    let next = restarts.after(failed(SECOND), start + WINDOW, 0.5);
    assert!(matches!(next, Next::After(_)), "{next:?}");
    assert_eq!(
        (restarts.made(), restarts.failures()),
        (FAILURES as u64 + 1, 1)
    );
}

#[test]
fn what_happened_on_another_host_counts() {
    let now = Instant::now();
    let before = Before {
        restarts: 2,
        failed: vec![2 * SECOND, SECOND],
    };
    let limited = Rule {
        max: Some(3),
        ..rule(RestartPolicy::OnFailure)
    };
    let mut restarts = Restarts::new(limited, &before, now);
    assert_eq!(
        restarts.after(failed(SECOND), now, 1.0),
        Next::After(4 * SECOND)
    );
    assert_eq!(restarts.made(), 3);
    assert_eq!(
        restarts.after(failed(SECOND), now, 1.0),
        Next::GiveUp(GaveUp::Max)
    );
    let before = |failed| Before {
        restarts: u64::MAX,
        failed,
    };
    let always = rule(RestartPolicy::Always);
    let worn = before(vec![Duration::ZERO; 1000]);
    assert_eq!(
        Restarts::new(always, &worn, now).after(failed(SECOND), now, 1.0),
        Next::GiveUp(GaveUp::CrashLoop)
    );
    // Of long ago, however many, they count no more.
    let rested = before(vec![WINDOW; 1000]);
    assert_eq!(
        Restarts::new(always, &rested, now).after(failed(SECOND), now, 1.0),
        Next::After(SECOND)
    );
}

#[test]
fn failures_grow_old_from_host_to_host() {
    let always = rule(RestartPolicy::Always);
    let mut before = Before::default();
    let start = Instant::now();
    for host in 0..1000 {
        // Each host has a clock of its own, and dies after ten minutes.
        let now = start + host * SECOND;
        let mut restarts = Restarts::new(always, &before, now);
        let later = now + 600 * SECOND;
        let next = restarts.after(failed(600 * SECOND), later, 1.0);
        assert!(matches!(next, Next::After(_)), "{next:?}");
        before = Before {
            restarts: restarts.made(),
            failed: restarts.failed(later),
        };
        assert!(before.failed.len() <= 6);
    }
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let asked = |policy, max, backoff_ms, max_backoff_ms| Restart {
        policy,
        max,
        backoff_ms,
        max_backoff_ms,
    };
    use RestartPolicy::{Always, Never, OnFailure};
    for (restart, field) in [
        (asked(Never, Some(1), None, None), "spec.restart.policy"),
        (asked(Never, None, Some(500), None), "spec.restart.policy"),
        (asked(Always, Some(0), None, None), "spec.restart.max"),
        (
            asked(Always, None, Some(99), None),
            "spec.restart.backoff_ms",
        ),
        (
            asked(Always, None, Some(u64::MAX), None),
            "spec.restart.backoff_ms",
        ),
        (
            asked(Always, None, None, Some(0)),
            "spec.restart.max_backoff_ms",
        ),
        (
            asked(OnFailure, None, Some(200), Some(199)),
            "spec.restart.max_backoff_ms",
        ),
        (
            asked(OnFailure, None, None, Some(MOST_MS + 1)),
            "spec.restart.max_backoff_ms",
        ),
    ] {
        assert_eq!(Rule::of(&restart).unwrap_err().field, field, "{restart:?}");
    }
    for (restart, first_ms, longest_ms) in [
        (asked(Always, None, None, None), BACKOFF_MS, MAX_BACKOFF_MS),
        (asked(Always, Some(1), Some(100), Some(100)), 100, 100),
        (asked(Always, None, Some(MOST_MS), None), MOST_MS, MOST_MS),
        // Whoever wants the longest short wants the first no longer.
        (asked(OnFailure, None, None, Some(200)), 200, 200),
    ] {
        let rule = Rule::of(&restart).unwrap();
        assert_eq!(rule.backoff, Duration::from_millis(first_ms), "{restart:?}");
        assert_eq!(rule.max_backoff, Duration::from_millis(longest_ms));
    }
}

proptest! {
    #[test]
    fn however_it_goes_the_bounds_hold(
        backoff_ms in LEAST_MS..=MOST_MS,
        more_ms in 0..=MOST_MS,
        max in proptest::option::of(1..30_u64),
        runs in proptest::collection::vec((0..3_u8, 0..7_200_u64, 0.0..1.0_f64), 1..80),
    ) {
        let max_backoff_ms = (backoff_ms + more_ms).min(MOST_MS);
        let rule = Rule::of(&Restart {
            policy: RestartPolicy::Always,
            max,
            backoff_ms: Some(backoff_ms),
            max_backoff_ms: Some(max_backoff_ms),
        })
        .unwrap();
        let mut now = Instant::now();
        let mut restarts = Restarts::new(rule, &Before::default(), now);
        let mut failures: Vec<Instant> = Vec::new();
        for (made, (code, lasted, dice)) in runs.into_iter().enumerate() {
            let lasted = Duration::from_secs(lasted);
            now += lasted;
            let ended = Ended { outcome: &Outcome::Exited { code }, asked: false, lasted };
            if code != 0 {
                failures.push(now);
            }
            let recent = failures.iter().filter(|at| now - **at < WINDOW).count();
            match restarts.after(ended, now, dice) {
                Next::After(wait) => {
                    prop_assert!(wait >= Duration::from_millis(backoff_ms / 2));
                    prop_assert!(wait <= Duration::from_millis(max_backoff_ms));
                    prop_assert!(recent <= FAILURES);
                    prop_assert!(max.is_none_or(|max| restarts.made() <= max));
                    prop_assert_eq!(restarts.made(), made as u64 + 1);
                    now += wait;
                }
                Next::GiveUp(GaveUp::Max) => {
                    prop_assert_eq!(Some(restarts.made()), max);
                    break;
                }
                Next::GiveUp(GaveUp::CrashLoop) => {
                    prop_assert!(recent > FAILURES);
                    break;
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
