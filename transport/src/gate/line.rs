//! Where those stand who want more than others have, when their thread is busy. One after
//! another they get it, so that however many they are, there is time in between for
//! whoever wants little.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// Whoever has had less at once need not stand in the line.
pub(super) const FREE: Duration = Duration::from_micros(160);

/// And in the long run: this part of what each had if all had as much.
const FREE_PART: u32 = 4;

/// The thread is busy where others on it take longer for their turns.
const BUSY: Duration = Duration::from_millis(1);

/// So much of the line is not waited for: timers are no finer.
const SHORT: Duration = Duration::from_millis(1);

/// Nobody waits for longer: who has gone meanwhile keeps no place.
const LONG: Duration = Duration::from_secs(10);

/// A thread's time, which is handed out in order.
#[derive(Debug)]
pub(super) struct Line {
    /// When all who stand there have had theirs.
    ends: Mutex<Instant>,
}

/// What one has had and not yet stood for.
#[derive(Debug)]
pub(super) struct Owing {
    owed: Duration,
    as_of: Instant,
}

impl Owing {
    pub(super) fn new() -> Self {
        Self {
            owed: Duration::ZERO,
            as_of: Instant::now(),
        }
    }
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            ends: Mutex::new(Instant::now()),
        }
    }

    /// Lets others have their turns. Where those take long, or some stand there, it pays.
    pub(super) async fn pay_if_busy(&self, owing: &mut Owing, price: Duration, all: usize) {
        let asked = Instant::now();
        yield_now().await;
        if asked.elapsed() >= BUSY || self.is_long() {
            self.pay(owing, price, all).await;
        }
    }

    /// Waits for as long as those before it take, and for what it has had itself; one of
    /// so many.
    pub(super) async fn pay(&self, owing: &mut Owing, price: Duration, all: usize) {
        let now = Instant::now();
        let all = u32::try_from(all).unwrap_or(u32::MAX).max(1);
        let free = now.saturating_duration_since(owing.as_of) / all / FREE_PART;
        owing.as_of = now;
        owing.owed = owing.owed.saturating_sub(free).saturating_add(price);
        if owing.owed >= FREE {
            let until = self.extend(now, std::mem::take(&mut owing.owed));
            if until > now + SHORT {
                sleep_until(until).await;
                // Nothing of this was free.
                owing.as_of = Instant::now();
            }
        }
    }

    pub(super) fn is_long(&self) -> bool {
        *self.ends() > Instant::now() + SHORT
    }

    fn extend(&self, now: Instant, by: Duration) -> Instant {
        let mut ends = self.ends();
        *ends = (now.max(*ends) + by).min(now + LONG);
        *ends
    }

    fn ends(&self) -> MutexGuard<'_, Instant> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const PRICE: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn little_is_not_waited_for_and_much_is() {
        let (line, mut owing) = (Line::new(), Owing::new());
        let begun = Instant::now();
        for _ in 1..10 {
            line.pay(&mut owing, FREE / 10, 1).await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        line.pay(&mut owing, PRICE - FREE / 10 * 9, 1).await;
        assert_eq!(begun.elapsed(), PRICE);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_unless_some_do_or_turns_take_long() {
        let line = Arc::new(Line::new());
        let begun = Instant::now();
        let (mut first, mut second) = (Owing::new(), Owing::new());
        line.pay_if_busy(&mut first, PRICE, 2).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let stands = tokio::spawn({
            let line = Arc::clone(&line);
            async move { line.pay(&mut first, PRICE, 2).await }
        });
        line.pay_if_busy(&mut second, PRICE, 2).await;
        line.pay_if_busy(&mut second, PRICE, 2).await;
        assert_eq!(begun.elapsed(), 2 * PRICE);
        stands.await.unwrap();
        // A turn of another.
        tokio::spawn(tokio::time::advance(BUSY));
        line.pay_if_busy(&mut second, PRICE, 2).await;
        assert_eq!(begun.elapsed(), 3 * PRICE + BUSY);
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_many_has_its_turn_and_who_wants_less_never_waits() {
        const MANY: u32 = 100;
        const TIMES: u32 = 20;
        let all = usize::try_from(MANY).unwrap() + 1;
        let line = Arc::new(Line::new());
        let begun = Instant::now();
        let mut turns = tokio::task::JoinSet::new();
        for number in 0..MANY {
            let line = Arc::clone(&line);
            turns.spawn(async move {
                let mut owing = Owing::new();
                for time in 0..TIMES {
                    line.pay(&mut owing, PRICE, all).await;
                    assert_eq!(begun.elapsed(), PRICE * (time * MANY + number + 1));
                }
            });
        }
        // A fifth of what each of them has, in parts, for as long as they are there.
        let mut owing = Owing::new();
        while begun.elapsed() < PRICE * MANY * (TIMES - 1) {
            tokio::time::sleep(FREE * MANY * 5).await;
            let asked = Instant::now();
            line.pay(&mut owing, FREE * 9 / 10, all).await;
            assert_eq!(asked.elapsed(), Duration::ZERO);
        }
        while let Some(turn) = turns.join_next().await {
            turn.unwrap();
        }
        assert_eq!(begun.elapsed(), PRICE * MANY * TIMES);
    }
}
