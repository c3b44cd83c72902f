//! Amounts as people write them. Pure; the command line reads the same forms.

use std::time::Duration;

/// What is wrong with an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// It is written in none of the ways that there are.
    #[error("`{text}` is no {what}")]
    Form {
        /// What was written.
        text: String,
        /// What was wanted, and how it is written.
        what: &'static str,
    },
    /// It is more than 64 bits hold.
    #[error("`{text}` is too much: the most is {}{unit}", u64::MAX)]
    TooMuch {
        /// What was written.
        text: String,
        /// In which the most is told.
        unit: &'static str,
    },
}

/// A kind of amounts, with what each of its units is in the smallest.
struct Kind {
    what: &'static str,
    smallest: &'static str,
    units: &'static [(&'static str, u64)],
}

const SIZE: Kind = Kind {
    what: "size: write a number of bytes, with a unit such as KiB, MiB, GiB, kB, MB or GB if you like",
    smallest: " bytes",
    units: &[
        ("", 1),
        ("B", 1),
        ("kB", 1000),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ],
};
const TIME: Kind = Kind {
    what: "length of time: write a number with a unit: ms, s, m, h or d",
    smallest: " ms",
    units: &[
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("min", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ],
};
const COUNT: Kind = Kind {
    what: "number: write digits, with k, M, G or T for thousands and more if you like",
    smallest: "",
    units: &[
        ("", 1),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ],
};

/// Reads a number of bytes: `4096`, `128MiB`, `1.5GB`.
///
/// # Errors
/// If it is none, or does not fit.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    parse(text, &SIZE)
}

/// Reads a length of time, in milliseconds at the finest: `250ms`, `30s`, `1.5h`.
///
/// # Errors
/// If it is none, or does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, &TIME).map(Duration::from_millis)
}

/// Reads a number: `1_000_000`, `10G`.
///
/// # Errors
/// If it is none, or does not fit.
pub fn parse_count(text: &str) -> Result<u64, UnitError> {
    parse(text, &COUNT)
}

/// Reads the value of a limit in the unit that its name ends in.
///
/// # Errors
/// If it is none.
pub fn parse_limit(name: &str, text: &str) -> Result<u64, UnitError> {
    if name.contains("bytes") {
        parse_size(text)
    } else if name.ends_with("_ms") {
        match parse_count(text) {
            Err(UnitError::Form { .. }) => parse(text, &TIME),
            milliseconds => milliseconds,
        }
    } else {
        parse_count(text)
    }
}

fn parse(text: &str, kind: &Kind) -> Result<u64, UnitError> {
    let error = || UnitError::Form {
        text: text.to_owned(),
        what: kind.what,
    };
    let too_much = || UnitError::TooMuch {
        text: text.to_owned(),
        unit: kind.smallest,
    };
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '_' | '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).ok_or_else(error)?;
    let unit = unit.trim_start();
    let &(_, factor) = kind
        .units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(error)?;
    let number: String = number.chars().filter(|&c| c != '_').collect();
    let amount = scaled(&number, factor).ok_or_else(error)?;
    u64::try_from(amount).map_err(|_| too_much())
}

/// `number × factor`, exactly, or [`u128::MAX`] where that does not fit; `None` where it is
/// not whole.
fn scaled(number: &str, factor: u64) -> Option<u128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || part.len() > 15 {
        return None;
    }
    // Of digits alone: what is not one is too much.
    let whole = whole.parse().unwrap_or(u128::MAX);
    let mut sum = whole.saturating_mul(u128::from(factor));
    if !part.is_empty() {
        let power = 10_u128.pow(u32::try_from(part.len()).ok()?);
        let part: u64 = part.parse().ok()?;
        let product = u128::from(part) * u128::from(factor);
        if product % power != 0 && factor < 1000 {
            return None;
        }
        sum = sum.saturating_add(product / power);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1_000 B", 1000),
            ("128MiB", 128 << 20),
            ("1.5GB", 1_500_000_000),
            ("0.1MiB", 104_857),
            ("64 KiB", 65_536),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for wrong in [
            "", "MiB", "-1", "1e9", "1.5", "1.", ".5KiB", "1..2KiB", "12mib", "3 apples", "+1",
        ] {
            let error = parse_size(wrong).unwrap_err().to_string();
            assert!(error.contains("is no size"), "{wrong}: {error}");
        }
    }

    #[test]
    fn times_and_counts() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for wrong in ["30", "", "5 years", "-1s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_count("1_000"), Ok(1000));
        assert_eq!(parse_count("10G"), Ok(10_000_000_000));
        assert_eq!(parse_count("18446744073709551615"), Ok(u64::MAX));
        assert!(parse_count("10MiB").is_err());
    }

    #[test]
    fn what_does_not_fit_is_too_much() {
        let most = "18446744073709551616";
        let digits = "9".repeat(1000);
        let errors = [
            parse_size("99999999TiB").unwrap_err(),
            parse_size(&digits).unwrap_err(),
            parse_duration("99999999999999999999s").unwrap_err(),
            parse_count(most).unwrap_err(),
            parse_count(&format!("{digits}.5T")).unwrap_err(),
            parse_limit("wall_ms", most).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, UnitError::TooMuch { .. }), "{error}");
            assert!(
                error
                    .to_string()
                    .contains("the most is 18446744073709551615")
            );
        }
    }

    #[test]
    fn limits_have_the_unit_of_their_name() {
        assert_eq!(parse_limit("memory_bytes", "1MiB"), Ok(1 << 20));
        assert_eq!(parse_limit("output_bytes_per_s", "1MiB"), Ok(1 << 20));
        assert_eq!(parse_limit("wall_ms", "30s"), Ok(30_000));
        assert_eq!(parse_limit("wall_ms", "30"), Ok(30));
        assert_eq!(parse_limit("fuel", "1G"), Ok(1_000_000_000));
        assert!(parse_limit("fuel", "1MiB").is_err());
    }
}
