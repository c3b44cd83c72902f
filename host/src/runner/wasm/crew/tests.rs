use std::pin::Pin;
use std::sync::atomic::AtomicBool;

use skep_protocol::spec::OnFuelExhausted;
use tokio::sync::{mpsc, watch};

use super::super::fuel::Fuel;
use super::super::usage::{Meters, thread_time};
use super::*;
use crate::runner::{End, GUEST_EVENTS, GuestEvent, Stand};

const GENEROUS: Duration = Duration::from_secs(60);

fn seat(
    crew: &Crew,
    life: impl Future<Output = End> + Send + 'static,
) -> mpsc::Receiver<GuestEvent> {
    let (events, ended) = mpsc::channel(GUEST_EVENTS);
    let meters = Arc::new(Meters::new(Fuel::new(1, OnFuelExhausted::Exit)));
    let stand = watch::Sender::new(Stand::Goes);
    crew.seat(Arc::new(Slot::new(Box::pin(life), events, stand, meters)));
    ended
}

async fn ended(mut guest: mpsc::Receiver<GuestEvent>) {
    let end = tokio::time::timeout(GENEROUS, guest.recv()).await.unwrap();
    assert_eq!(end, Some(GuestEvent::Ended(End::Exited(0))));
}

/// Takes its turns, each so long, until it is told to stop.
struct Busy {
    turn: Duration,
    turns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Future for Busy {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        if self.stop.load(Ordering::Relaxed) {
            return Poll::Ready(End::Exited(0));
        }
        let begun = thread_time();
        while thread_time() < begun + self.turn {}
        self.turns.fetch_add(1, Ordering::Relaxed);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A busy guest, and the count of its turns.
fn busy(
    crew: &Crew,
    turn: Duration,
    stop: &Arc<AtomicBool>,
) -> (mpsc::Receiver<GuestEvent>, Arc<AtomicU64>) {
    let turns = Arc::new(AtomicU64::new(0));
    let life = Busy {
        turn,
        turns: Arc::clone(&turns),
        stop: Arc::clone(stop),
    };
    (seat(crew, life), turns)
}

#[tokio::test]
async fn whoever_takes_long_turns_gets_fewer_of_them() {
    let crew = Crew::new(1, || ()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (long, long_turns) = busy(&crew, Duration::from_millis(40), &stop);
    let (short, short_turns) = busy(&crew, Duration::from_millis(1), &stop);
    let enough = async {
        while long_turns.load(Ordering::Relaxed) < 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(GENEROUS, enough).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    ended(long).await;
    ended(short).await;
    // Some forty for each.
    let (long, short) = (
        long_turns.load(Ordering::Relaxed),
        short_turns.load(Ordering::Relaxed),
    );
    assert!(
        short >= 3 * long,
        "{short} short turns for {long} long ones"
    );
}

#[tokio::test]
async fn a_sleeper_goes_before_those_that_compute() {
    let crew = Crew::new(1, || ()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..50)
        .map(|_| busy(&crew, Duration::from_millis(2), &stop))
        .collect();
    let all: Vec<_> = busy.iter().map(|(_, turns)| Arc::clone(turns)).collect();
    let turns = move || -> u64 { all.iter().map(|one| one.load(Ordering::Relaxed)).sum() };
    let of_sleeper = turns.clone();
    let (wake, mut woken) = mpsc::channel(1);
    let sleeper = seat(&crew, async move {
        while let Some(before) = woken.recv().await {
            let meanwhile = of_sleeper() - before;
            // Not after a round of all the others.
            assert!(meanwhile <= 2, "{meanwhile} turns");
        }
        End::Exited(0)
    });
    // In a turn of its own, so that none of the others has one meanwhile.
    let waker = seat(&crew, async move {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            wake.send(turns()).await.unwrap();
        }
        End::Exited(0)
    });
    ended(waker).await;
    ended(sleeper).await;
    stop.store(true, Ordering::Relaxed);
    for (guest, _) in busy {
        ended(guest).await;
    }
}

#[tokio::test]
async fn a_crowd_of_newcomers_does_not_go_before_who_computes_little() {
    const CROWD: usize = 60;
    let crew = Crew::new(1, || ()).unwrap();
    let begun = Arc::new(AtomicU64::new(0));
    let (wake, mut woken) = mpsc::channel::<()>(1);
    let of_light = Arc::clone(&begun);
    let light = seat(&crew, async move {
        // As much as an honest agent computes in a second.
        let begun = thread_time();
        while thread_time() < begun + Duration::from_millis(1) {}
        while woken.recv().await.is_some() {}
        let before = of_light.load(Ordering::Relaxed);
        assert!(before < CROWD as u64 / 2, "{before} went first");
        End::Exited(0)
    });
    let of_crowd = Arc::clone(&begun);
    // In one turn, so that all of them wait when it is over.
    let newcomer = move || {
        let begun = Arc::clone(&of_crowd);
        async move {
            begun.fetch_add(1, Ordering::Relaxed);
            let begun = thread_time();
            while thread_time() < begun + Duration::from_millis(5) {}
            End::Exited(0)
        }
    };
    let crowd = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (line, seats) = (Arc::clone(&crew.line), Arc::clone(&crowd));
    let herald = seat(&crew, async move {
        // The light one has had its turn by then.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let within = Crew { line };
        for _ in 0..CROWD {
            seats.lock().unwrap().push(seat(&within, newcomer()));
        }
        drop(wake);
        std::mem::forget(within);
        End::Exited(0)
    });
    ended(herald).await;
    ended(light).await;
    let crowd = std::mem::take(&mut *crowd.lock().unwrap());
    for guest in crowd {
        ended(guest).await;
    }
}

#[tokio::test]
async fn newcomers_that_slept_right_after_their_start_do_not_either() {
    const CROWD: usize = 200;
    let crew = Crew::new(1, || ()).unwrap();
    let (wake, mut woken) = mpsc::channel::<()>(1);
    let (started, begun) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let go = Arc::new(tokio::sync::Notify::new());
    let of_light = Arc::clone(&begun);
    let light = seat(&crew, async move {
        let begun = thread_time();
        while thread_time() < begun + Duration::from_millis(1) {}
        while woken.recv().await.is_some() {}
        let before = of_light.load(Ordering::Relaxed);
        assert!(before < CROWD as u64 / 2, "{before} went first");
        End::Exited(0)
    });
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let (started, begun, go) = (Arc::clone(&started), Arc::clone(&begun), Arc::clone(&go));
            seat(&crew, async move {
                let all_go = go.notified();
                tokio::pin!(all_go);
                all_go.as_mut().enable();
                started.fetch_add(1, Ordering::Relaxed);
                all_go.await;
                begun.fetch_add(1, Ordering::Relaxed);
                let begun = thread_time();
                while thread_time() < begun + Duration::from_millis(2) {}
                End::Exited(0)
            })
        })
        .collect();
    // It wakes all of them in one turn, and who computes a little behind them.
    let herald = seat(&crew, async move {
        while started.load(Ordering::Relaxed) < CROWD as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        go.notify_waiters();
        drop(wake);
        End::Exited(0)
    });
    ended(herald).await;
    ended(light).await;
    for guest in crowd {
        ended(guest).await;
    }
}

#[tokio::test]
async fn a_wake_is_never_lost() {
    let crew = Crew::new(2, || ()).unwrap();
    let pairs: Vec<_> = (0..20)
        .map(|_| {
            let (ping, mut pinged) = mpsc::channel::<u32>(1);
            let (pong, mut ponged) = mpsc::channel::<u32>(1);
            let one = seat(&crew, async move {
                for number in 0..2000 {
                    ping.send(number).await.unwrap();
                    assert_eq!(ponged.recv().await, Some(number));
                }
                End::Exited(0)
            });
            let other = seat(&crew, async move {
                while let Some(number) = pinged.recv().await {
                    pong.send(number).await.unwrap();
                }
                End::Exited(0)
            });
            [one, other]
        })
        .collect();
    for guest in pairs.into_iter().flatten() {
        ended(guest).await;
    }
    // Each is given up right after its end was told.
    let empty = async {
        while !crew.line.lock().seats.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GENEROUS, empty).await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_thread_that_does_not_come_is_taken_by_another() {
    let crew = Crew::new(1, || ()).unwrap();
    let (polled, mut begun) = mpsc::channel(1);
    let mut polls = 0;
    let guest = seat(
        &crew,
        std::future::poll_fn(move |_| {
            polls += 1;
            polled.try_send(()).unwrap();
            if polls == 1 {
                Poll::Pending
            } else {
                Poll::Ready(End::Exited(0))
            }
        }),
    );
    begun.recv().await.unwrap();
    // As if it had been woken, and the word of that were under way for ever.
    let seat = crew.line.lock().seats.values().next().cloned().unwrap();
    let idle = async {
        while seat.phase.load(Ordering::Acquire) != IDLE {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GENEROUS, idle).await.unwrap();
    seat.phase.store(WAITING, Ordering::Release);
    crew.line.lock().join(&seat);
    assert!(begun.try_recv().is_err(), "nobody has woken a thread");
    let nudge = crew.nudge();
    // One that finds the line in use leaves it to the next.
    let taken = async {
        while begun.try_recv().is_err() {
            nudge();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GENEROUS, taken).await.unwrap();
    ended(guest).await;
}

#[tokio::test]
async fn timers_and_blocking_calls_work_within() {
    let crew = Crew::new(1, || ()).unwrap();
    let guest = seat(&crew, async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let read = tokio::task::spawn_blocking(|| 7).await;
        assert_eq!(read.unwrap(), 7);
        End::Exited(0)
    });
    ended(guest).await;
}

#[test]
fn calls_on_files_wait_for_one_of_the_threads() {
    let (_lives, dropped) = oneshot::channel();
    let threads = run_clocks(|| (), dropped).unwrap();
    let (begins, begun) = std::sync::mpsc::channel();
    let all_go = Arc::new(std::sync::Barrier::new(FILE_THREADS + 1));
    for _ in 0..FILE_THREADS {
        let (begins, all_go) = (begins.clone(), Arc::clone(&all_go));
        threads.spawn_blocking(move || {
            begins.send("one of the first").unwrap();
            all_go.wait();
        });
    }
    for _ in 0..32 {
        let first = begun.recv_timeout(GENEROUS);
        assert_eq!(first, Ok("one of the first"));
    }
    threads.spawn_blocking(move || begins.send("the last"));
    // However long one waits here, it does not begin.
    let patience = Duration::from_millis(50);
    assert!(begun.recv_timeout(patience).is_err());
    all_go.wait();
    assert_eq!(begun.recv_timeout(GENEROUS), Ok("the last"));
}
