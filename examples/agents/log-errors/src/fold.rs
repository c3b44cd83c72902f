//! Takes out of a message what differs between two cases of the same error.

/// Hexadecimal words of at least this length are ids, if they hold a digit.
const ID_LENGTH: usize = 8;

/// A message without what differs from case to case: numbers are `<n>`,
/// hexadecimal ids `<hex>`, addresses `<addr>`, quoted paths `<path>`, and a
/// quoted value at the end `<text>`.
pub fn fold(message: &str) -> String {
    let message = without_last_value(message);
    let mut folded = String::with_capacity(message.len());
    let mut rest = message.as_str();
    while let Some(next) = rest.chars().next() {
        let (replacement, length) = quoted_path(rest, next, folded.chars().last())
            .or_else(|| word(rest, next))
            .unwrap_or((None, next.len_utf8()));
        let (taken, left) = rest.split_at(length);
        folded.push_str(replacement.as_deref().unwrap_or(taken));
        rest = left;
    }
    folded
}

/// What replaces the beginning of a text, if anything, and how long that is.
type Piece = (Option<String>, usize);

fn quoted_path(text: &str, quote: char, before: Option<char>) -> Option<Piece> {
    // The quote in `don't` opens nothing.
    if !matches!(quote, '"' | '\'' | '`') || before.is_some_and(char::is_alphanumeric) {
        return None;
    }
    let inside = text.get(1..)?.split(quote).next()?;
    let length = inside.len() + 2;
    if length > text.len() || !inside.contains('/') {
        return None;
    }
    Some((Some(format!("{quote}<path>{quote}")), length))
}

/// A word is taken whole, so that an id is not mistaken for a number.
fn word(text: &str, next: char) -> Option<Piece> {
    if !(next.is_ascii_alphanumeric() || next == ':') {
        return None;
    }
    let address = prefix(text, |c| c.is_ascii_hexdigit() || matches!(c, '.' | ':'));
    if let Some(length) = address_length(address) {
        return Some((Some("<addr>".to_owned()), length));
    }
    let word = prefix(text, |c| c.is_ascii_alphanumeric() || c == '_');
    if word.is_empty() {
        return None;
    }
    let folded = if is_hex(word) {
        "<hex>".to_owned()
    } else if is_name(word) {
        word.to_owned()
    } else {
        without_digits(word)
    };
    Some((Some(folded), word.len()))
}

fn prefix(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// How much of a run of digits, dots and colons is an address, port included.
fn address_length(run: &str) -> Option<usize> {
    let run = run.trim_end_matches(['.', ':']);
    let host = run.split(':').next().unwrap_or(run);
    let is_address = host.parse::<std::net::Ipv4Addr>().is_ok()
        // A time of day is no address: hence two colons side by side, or all.
        || (run.contains(':') && run.parse::<std::net::Ipv6Addr>().is_ok());
    is_address.then_some(run.len())
}

fn is_hex(word: &str) -> bool {
    let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
    let all_hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    match digits {
        Some(digits) => all_hex(digits),
        None => {
            word.len() >= ID_LENGTH
                && all_hex(word)
                && word.bytes().any(|byte| byte.is_ascii_digit())
                && word.bytes().any(|byte| byte.is_ascii_alphabetic())
        }
    }
}

/// One digit after letters belongs to a name, such as `sqlite3` or `http2`.
fn is_name(word: &str) -> bool {
    word.strip_suffix(|c: char| c.is_ascii_digit())
        .is_some_and(|letters| {
            !letters.is_empty() && !letters.contains(|c: char| c.is_ascii_digit())
        })
}

fn without_digits(word: &str) -> String {
    let mut folded = String::with_capacity(word.len());
    let mut in_number = false;
    for c in word.chars() {
        let is_digit = c.is_ascii_digit();
        if !is_digit {
            folded.push(c);
        } else if !in_number {
            folded.push_str("<n>");
        }
        in_number = is_digit;
    }
    folded
}

/// `int() with base 10: 'two'` ends with a value, `KeyError: 'sku'` with what
/// the error is about: the latter has nothing but a name before its colon.
fn without_last_value(message: &str) -> String {
    let kept = || message.to_owned();
    let Some(quote @ ('\'' | '"')) = message.chars().last() else {
        return kept();
    };
    let opening = format!(": {quote}");
    let Some((before, _)) = message.rsplit_once(&opening) else {
        return kept();
    };
    let reason = before.rsplit(": ").next().unwrap_or(before);
    if reason.contains(' ') {
        format!("{before}: {quote}<text>{quote}")
    } else {
        kept()
    }
}
