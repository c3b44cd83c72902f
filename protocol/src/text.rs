//! Texts of strangers, where a person reads them.

/// Whether a character shows as something else than it is: it moves the cursor,
/// begins a line, turns the direction of writing, or cannot be seen, so that two
/// texts look alike that are not. Whoever prints a text of another shows these
/// in another way. Joiners are among them, which some scripts use: of names and
/// messages it counts more that none is taken for another.
#[must_use]
pub fn deceives(char: char) -> bool {
    char.is_control()
        || matches!(char,
            // Soft hyphen, and the mark of Arabic letters, which turns.
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            // Of no width, and what turns.
            | '\u{200b}'..='\u{200f}'
            // Ends of lines and paragraphs, and what turns.
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            // Notes between lines, and tags, which spell a hidden text.
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_as_something_else_is_known() {
        for deceiving in [
            '\0',
            '\n',
            '\x1b',
            '\x7f',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{feff}',
            '\u{fffb}',
            '\u{e0041}',
        ] {
            assert!(deceives(deceiving), "{deceiving:?}");
        }
        for plain in [
            ' ', '~', '\u{a0}', 'é', 'ج', 'א', '\u{2010}', '\u{2027}', '…', '日', '\u{fe0f}',
            '\u{fffd}', '🐝',
        ] {
            assert!(!deceives(plain), "{plain:?}");
        }
    }
}
