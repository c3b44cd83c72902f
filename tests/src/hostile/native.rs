//! Processes that multiply, hoard, do not want to end, or wake themselves. Each
//! bomb is bounded by its own limits, and by its wall clock.

use std::time::Duration;

use skep_client::protocol::{AgentSpec, ErrorCode};

use super::{Act, Case, Ends, MIB, SOON_MS};
use crate::guests::{native, sh};

const GRACE: Duration = Duration::from_millis(100);
const LONG_GRACE: Duration = Duration::from_secs(60);

pub(super) fn cases() -> Vec<Case> {
    [bombs(), clingers(), ends(), sleepers()].concat()
}

fn perl(script: &str) -> AgentSpec {
    native(&["/usr/bin/perl", "-e", script])
}

fn bombs() -> Vec<Case> {
    let case = |what, spec, ends| {
        let mut case = Case::new("native_bombs", what, spec, ends);
        case.where_held = true;
        case
    };
    let within = |mut case: Case, processes| {
        case.spec.limits.processes = Some(processes);
        case
    };
    // Whoever is there writes one line once there is no room for more.
    let fork_bomb = "1 while defined fork; syswrite STDOUT, qq(full\\n); sleep 1000";
    let family = "for (1..15) { my $child = fork; exit 9 unless defined $child; \
         if (!$child) { sleep 1000 } push @all, $child } kill 9, @all; 1 while wait != -1";
    let threads = |count| {
        format!(
            "use threads; no warnings; \
             for (1..{count}) {{ threads->create(sub {{ sleep 1000 }}) or last }} \
             syswrite STDOUT, scalar(threads->list) . qq(\\n); sleep 1000"
        )
    };
    let hoard = |children: u32| {
        perl(&format!(
            "for (1..{children}) {{ if (!fork) {{ $x = 'x' x (10 << 20); \
             syswrite STDOUT, qq(held\\n); sleep 1000 }} }} sleep 1000"
        ))
    };
    vec![
        within(
            case("forks", perl(fork_bomb), Ends::Killed)
                .acts(&[Act::Written(16), Act::Kill])
                .writing(b"full\n".repeat(16)),
            16,
        ),
        within(
            case(
                "forks until its time is over",
                perl(fork_bomb),
                Ends::Deadline,
            )
            .wall_ms(SOON_MS),
            16,
        ),
        within(case("as many as may be", perl(family), Ends::Exited(0)), 16),
        within(
            case("threads", perl(&threads(1000)), Ends::Killed)
                .acts(&[Act::Written(1), Act::Kill])
                .writing(b"7\n".to_vec()),
            8,
        ),
        within(
            case("as many threads as may be", perl(&threads(7)), Ends::Killed)
                .acts(&[Act::Written(1), Act::Kill])
                .writing(b"7\n".to_vec()),
            8,
        ),
        case("memory, all together", hoard(10), Ends::OutOfMemory).memory(48 * MIB),
        case("memory that fits", hoard(2), Ends::Killed)
            .memory(48 * MIB)
            .acts(&[Act::Written(2), Act::Kill])
            .writing(b"held\n".repeat(2)),
    ]
}

/// Those who stay when they should go, or leave others behind.
fn clingers() -> Vec<Case> {
    let case = |what, script, ends| Case::new("native_clingers", what, sh(script), ends);
    let forced = Ends::Stopped { forced: true };
    let deaf = "trap '' TERM HUP INT; echo ready; sleep 1000 & while :; do wait; done";
    let daemon = "trap '' TERM HUP; \
         (timeout 9999 sh -c 'trap \"\" TERM HUP; echo ready; while :; do sleep 1000; done' &) & \
         wait; sleep 1000";
    // Forks twice, is refused a session, and goes on in a group of its own.
    let far = "use POSIX; $SIG{TERM} = $SIG{HUP} = 'IGNORE'; \
         if (!fork) { POSIX::_exit(0) if fork; POSIX::setsid(); setpgrp(0, 0); \
         syswrite STDOUT, qq(ready\\n) } else { wait } sleep 1000 while 1";
    let far = || native(&["/usr/bin/perl", "-e", far]);
    let zombies = "for i in 1 2 3 4 5 6 7 8; do true & done; echo ready; exec sleep 1000";
    let (stop, kill) = (
        [Act::Written(1), Act::Stop(GRACE)],
        [Act::Written(1), Act::Kill],
    );
    vec![
        case("is deaf", deaf, forced).acts(&stop),
        case("is deaf until it is killed", deaf, Ends::Killed).acts(&kill),
        case(
            "goes when it is told to",
            "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done",
            Ends::Stopped { forced: false },
        )
        .acts(&[Act::Written(1), Act::Stop(LONG_GRACE)])
        .writing(b"ready\nbye\n".to_vec()),
        case("has a daemon", daemon, forced).acts(&stop),
        case("has a daemon and is killed", daemon, Ends::Killed).acts(&kill),
        case("has a daemon for too long", daemon, Ends::Deadline).wall_ms(SOON_MS),
        Case::new("native_clingers", "has a far daemon", far(), forced).acts(&stop),
        Case::new(
            "native_clingers",
            "has a far daemon and is killed",
            far(),
            Ends::Killed,
        )
        .acts(&kill),
        case("has zombies", zombies, Ends::Killed).acts(&kill),
        case(
            "leaves a grandchild with its stdout",
            "(timeout 9999 sleep 1000 &); echo done; exit 3",
            Ends::Exited(3),
        )
        .writing(b"done\n".to_vec()),
    ]
}

fn ends() -> Vec<Case> {
    let case = |what: &str, spec, ends| Case::new("native_ends", what, spec, ends);
    let mut cases = vec![
        case(
            "there is no such program",
            native(&["/nowhere/at/all"]),
            Ends::StartFailed(ErrorCode::NotFound),
        ),
        case(
            "it is no program",
            native(&["/etc/passwd"]),
            Ends::StartFailed(ErrorCode::InvalidArgument),
        ),
        case("it is one", native(&["/bin/true"]), Ends::Exited(0)),
    ];
    cases.extend([6, 9, 11, 15].map(|signal| {
        case(
            &format!("by signal {signal}"),
            sh(&format!("kill -{signal} $$")),
            Ends::Signaled(signal),
        )
    }));
    cases
}

/// Those who stand still or go on by themselves.
fn sleepers() -> Vec<Case> {
    let case = |what, script, ends| Case::new("native_sleepers", what, sh(script), ends);
    let stops = "echo ready; kill -STOP $$; exit 4";
    let wakes = "w() { while :; do kill -CONT -$$; echo $1; done; }; w a & w b & \
         (sleep 0.02; while :; do kill -CONT $$; done) & w c";
    let begun = [Act::Written(10), Act::Pause];
    vec![
        case("stops itself", stops, Ends::Killed).acts(&[Act::Written(1), Act::Kill]),
        case("stops itself for too long", stops, Ends::Deadline).wall_ms(SOON_MS),
        case("wakes itself while paused", wakes, Ends::Killed)
            .acts(&[&begun[..], &[Act::Kill]].concat()),
        case("wakes itself, and is asked to stop", wakes, {
            Ends::Stopped { forced: false }
        })
        .acts(&[&begun[..], &[Act::Stop(LONG_GRACE)]].concat()),
        case("is paused twice", "while :; do echo; sleep 0.01; done", {
            Ends::Killed
        })
        .acts(&[&begun[..], &[Act::Resume, Act::Pause, Act::Kill]].concat()),
    ]
}
