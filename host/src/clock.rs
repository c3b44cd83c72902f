//! The time of day, as the wire carries it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn since_epoch(time: SystemTime) -> Duration {
    // A clock set before 1970 is a broken machine, and no reason to fail.
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    ms_of(SystemTime::now())
}

/// The same, of a file's time.
#[must_use]
pub fn ms_of(time: SystemTime) -> u64 {
    u64::try_from(since_epoch(time).as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds since the epoch; they fit until the year 2554.
#[must_use]
pub fn now_ns() -> u64 {
    u64::try_from(since_epoch(SystemTime::now()).as_nanos()).unwrap_or(u64::MAX)
}

/// The time of day as it was when the host started, and as it went on since: who
/// sets the machine's clock makes nothing older or younger.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    began_ms: u64,
    began: Instant,
}

impl Steady {
    #[must_use]
    pub fn since(began_ms: u64) -> Self {
        Self {
            began_ms,
            began: Instant::now(),
        }
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.began_ms.saturating_add(since)
    }
}

/// A time in UTC, from milliseconds since the epoch, as RFC 3339 has it: `2026-11-21T05:06:07.123Z`.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day from the days since the epoch. Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms": `civil_from_days`, for days
/// that are not before the epoch.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on, so that the leap day is the last.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (ms, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_767_225_599_000, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms), shown);
        }
    }
}
