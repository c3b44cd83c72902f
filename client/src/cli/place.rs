//! A place in an agent's output, as a person names it: a record or a time.

use std::str::FromStr;

use jiff::{Span, SpanRelativeTo, Timestamp};
use skep_client::Client;
use skep_client::protocol::AgentId;

use super::failure::Failure;

/// Where to begin or to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A record, by its number.
    Seq(u64),
    /// A time, in nanoseconds since the epoch.
    Time(u64),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, Timestamp::now())
    }
}

impl Place {
    fn parse(text: &str, now: Timestamp) -> Result<Self, String> {
        if let Ok(seq) = text.parse() {
            return Ok(Self::Seq(seq));
        }
        let time = match text.parse::<Span>() {
            Ok(ago) => (ago.to_duration(SpanRelativeTo::days_are_24_hours()).ok())
                .filter(|ago| !ago.is_negative())
                .and_then(|ago| now.checked_sub(ago).ok()),
            Err(_) => text.parse::<Timestamp>().ok(),
        };
        let time = time.ok_or_else(|| {
            format!(
                "`{text}` is no record, time or length of time: write a number, \
                 2026-11-21T12:00:00Z or 2h30m"
            )
        })?;
        // Nothing was written before the epoch.
        Ok(Self::Time(u64::try_from(time.as_nanosecond()).unwrap_or(0)))
    }

    /// The number of the first record that does not lie before it.
    pub(super) async fn seq(self, client: &Client, agent: AgentId) -> Result<u64, Failure> {
        Ok(match self {
            Self::Seq(seq) => seq,
            Self::Time(time_ns) => client.first_seq_at(agent, time_ns).await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_times_and_lengths_of_time() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let second = |n: u64| Place::Time(n * 1_000_000_000);
        for (text, place) in [
            ("0", Place::Seq(0)),
            ("17", Place::Seq(17)),
            ("10s", second(999_990)),
            ("2h30m", second(1_000_000 - 9000)),
            ("1d", second(1_000_000 - 86_400)),
            ("1970-01-01T00:00:05Z", second(5)),
            ("1970-01-01T02:00:05+02:00", second(5)),
            ("1969-01-01T00:00:00Z", second(0)),
            ("60d", second(0)),
        ] {
            assert_eq!(Place::parse(text, now), Ok(place), "{text}");
        }
        for wrong in ["", "-5s", "yesterday", "12:00", "2026-13-01T00:00:00Z"] {
            let error = Place::parse(wrong, now).unwrap_err();
            assert!(error.contains("2h30m"), "{wrong}: {error}");
        }
    }
}
