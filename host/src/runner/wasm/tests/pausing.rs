//! Holding guests, wherever they are, and letting them go on.

use std::time::Instant;

use skep_protocol::info::PausedReason;

use super::*;
use crate::runner::Able;

impl Started {
    /// Waits until it is held, or goes.
    async fn stands(&mut self, stand: Stand) {
        let stood = self.guest.stand.wait_for(|now| *now == stand);
        tokio::time::timeout(DEADLINE, stood)
            .await
            .unwrap()
            .unwrap();
    }

    async fn pause(&mut self) {
        assert_eq!(self.guest.control.pause(), Able::Yes);
        self.stands(Stand::Held(PausedReason::Asked)).await;
    }

    async fn burns_fuel(&self) {
        let before = self.guest.control.usage().fuel_used;
        let burns = async {
            while self.guest.control.usage().fuel_used == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, burns).await.unwrap();
    }

    /// Holds it, sees that nothing of it runs while others do, and lets it go.
    async fn held_for_a_while(&mut self) {
        self.pause().await;
        let held = self.guest.control.usage();
        still_runs().await;
        still_runs().await;
        assert_eq!(self.guest.control.usage(), held);
        self.guest.control.resume();
        self.stands(Stand::Goes).await;
    }
}

#[tokio::test]
async fn in_a_loop() {
    let mut started = probe(&["spin"]).start();
    started.running().await;
    for _ in 0..3 {
        started.burns_fuel().await;
        started.held_for_a_while().await;
    }
    started.burns_fuel().await;
    started.guest.control.kill();
    assert_eq!(started.ended().await.end, End::Killed);
}

#[tokio::test]
async fn in_a_start_function() {
    let mut started = ask(spins_at_start()).start();
    started.burns_fuel().await;
    started.held_for_a_while().await;
    started.burns_fuel().await;
    started.pause().await;
    started.guest.control.kill();
    let seen = started.ended().await;
    assert_eq!((seen.end, seen.ran), (End::Killed, false));
}

#[tokio::test]
async fn before_its_first_instruction() {
    let runner = one_at_a_time();
    let busy = probe(&["exit", "3"]).start_on(&runner);
    let mut waits = ask(prebuilt("echo")).start_on(&runner);
    waits.pause().await;
    assert_eq!(busy.ended().await.end, End::Exited(3));
    assert_eq!(waits.guest.control.usage().fuel_used, 0);
    assert!(waits.guest.events.is_empty());
    waits.stdin.close();
    waits.guest.control.resume();
    assert_eq!(waits.ended().await.end, End::Exited(0));
}

#[tokio::test]
async fn in_a_sleep_that_ends_meanwhile() {
    let mut started = probe(&["sleep", "3000"]).start();
    started.running().await;
    started.pause().await;
    // The guest's clock does not stand still.
    assert_eq!(probe(&["sleep", "3000"]).run().await.stdout, b"slept\n");
    assert_eq!(started.output.counter().written(), [0, 0]);
    started.guest.control.resume();
    let resumed = Instant::now();
    assert_eq!(started.ended().await.stdout, b"slept\n");
    // It sleeps no longer, and a clock that stood still would have most of it left.
    assert!(resumed.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn in_a_read_whose_bytes_come_meanwhile() {
    let mut started = ask(prebuilt("echo")).start();
    started.running().await;
    started.pause().await;
    assert_eq!(started.stdin.offer(b"held\n"), 5);
    started.stdin.close();
    still_runs().await;
    assert_eq!(started.output.counter().written(), [0, 0]);
    started.guest.control.resume();
    let seen = started.ended().await;
    assert_eq!(
        (seen.end, seen.stdout.as_slice()),
        (End::Exited(0), &b"held\n"[..])
    );
}

#[tokio::test]
async fn ten_thousand_times() {
    let mut started = probe(&["spin"]).start();
    started.running().await;
    for _ in 0..10_000 {
        started.pause().await;
        started.guest.control.resume();
    }
    started.stands(Stand::Goes).await;
    started.burns_fuel().await;
    started.guest.control.kill();
    assert_eq!(started.ended().await.end, End::Killed);
}

#[tokio::test]
async fn kill_while_it_is_held() {
    for args in [&["spin"][..], &["sleep", "3600000"], &["read-stdin"]] {
        let mut started = probe(args).start();
        started.running().await;
        started.pause().await;
        started.guest.control.kill();
        assert_eq!(started.ended().await.end, End::Killed);
    }
    still_runs().await;
}

fn pauses(fuel: u64, mut ask: Ask) -> Ask {
    ask.limits.fuel = fuel;
    ask.on_fuel_exhausted = OnFuelExhausted::Pause;
    ask
}

#[tokio::test]
async fn out_of_fuel_and_on_from_the_same_instruction() {
    // Sums up what it has counted, in a loop without a call.
    let guest = command(
        "(local $i i64) (local $sum i64)
         (loop $l
            (local.set $sum (i64.add (local.get $sum) (local.get $i)))
            (br_if $l (i64.lt_u (local.tee $i (i64.add (local.get $i) (i64.const 1)))
                                (i64.const 20000000))))
         (if (i64.ne (local.get $sum) (i64.const 199999990000000)) (then unreachable))
         i32.const 0",
        "",
    );
    let exact = ask(guest.clone()).run().await;
    assert_eq!(exact.end, End::Exited(0));

    let mut started = pauses(20_000_000, ask(guest)).start();
    let mut held = 0;
    let end = loop {
        tokio::select! {
            event = started.guest.events.recv() => {
                if let Some(GuestEvent::Ended(end)) = event {
                    break end;
                }
            }
            Ok(()) = started.guest.stand.changed() => {
                let stand = *started.guest.stand.borrow_and_update();
                if stand == Stand::Held(PausedReason::OutOfFuel) {
                    let usage = started.guest.control.usage();
                    assert_eq!(usage.fuel_left, Some(0), "{usage:?}");
                    // To resume is not to refuel.
                    started.guest.control.resume();
                    assert_eq!(*started.guest.stand.borrow(), stand);
                    held += 1;
                    // What it ran too many has to be paid for.
                    while *started.guest.stand.borrow() == stand {
                        assert_eq!(started.guest.control.refuel(20_000_000), Able::Yes);
                    }
                }
            }
        }
    };
    assert_eq!(end, End::Exited(0));
    assert!(held >= 2, "held {held} times");
    // The count is that of the guest that was never held.
    let used = started.guest.control.usage().fuel_used;
    assert_eq!(used, exact.usage.fuel_used);
}

#[tokio::test]
async fn refuelled_while_it_runs() {
    let mut spin = probe(&["spin"]);
    spin.limits.fuel = 300_000_000;
    let mut started = spin.start();
    started.running().await;
    started.burns_fuel().await;
    assert_eq!(started.guest.control.refuel(500_000_000), Able::Yes);
    let seen = started.ended().await;
    assert_eq!(seen.end, End::OutOfFuel);
    let used = seen.usage.fuel_used;
    // Some ticks of the clock too many, on a machine that is busy.
    assert!((800_000_000..1_000_000_000).contains(&used), "{used}");
}
