//! Pieces of text, without a regular expression engine: it would be larger than
//! the rest of the agent.

/// The first `limit` bytes of a text, or a few less so as not to split a
/// character, and a mark if anything is missing.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let kept = text
        .get(..text.floor_char_boundary(limit))
        .unwrap_or_default();
    format!("{kept}…")
}

/// Whether a text begins like `pattern`, in which `9` stands for any digit.
/// Returns what comes after.
pub(crate) fn after<'a>(text: &'a str, pattern: &str) -> Option<&'a str> {
    let mut bytes = text.bytes();
    for expected in pattern.bytes() {
        let found = bytes.next()?;
        let fits = match expected {
            b'9' => found.is_ascii_digit(),
            other => found == other,
        };
        if !fits {
            return None;
        }
    }
    text.get(pattern.len()..)
}

/// The number of a month, from its English abbreviation.
pub(crate) fn month(name: &str) -> Option<usize> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    MONTHS
        .iter()
        .position(|month| *month == name)
        .map(|at| at + 1)
}

/// The time in front of a line, as `2026-11-21 04:47:50`, and what comes after
/// it: ISO 8601 in its variants, with fractions and zones left out.
pub(crate) fn leading_time(line: &str) -> Option<(String, &str)> {
    let rest = [
        "9999-99-99 99:99:99",
        "9999-99-99T99:99:99",
        "9999/99/99 99:99:99",
    ]
    .iter()
    .find_map(|pattern| after(line, pattern))?;
    let time = line
        .get(..line.len() - rest.len())?
        .replace('T', " ")
        .replace('/', "-");
    Some((time, without_fraction(rest)))
}

/// Skips what may follow the seconds: `,814`, `.874Z`, `+01:00`.
fn without_fraction(rest: &str) -> &str {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, ',' | '.' | '+' | '-' | ':' | 'Z');
    match rest.chars().next() {
        Some(',' | '.' | '+' | '-' | 'Z') => rest.trim_start_matches(is_part),
        _ => rest,
    }
}
