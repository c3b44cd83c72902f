//! The keys that leave an attached agent running. Pure.

use std::fmt;
use std::str::FromStr;

/// A sequence of bytes that is looked for in what is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DetachKeys(Vec<u8>);

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self)
            .ok_or_else(|| format!("`{text}` are no keys: write such as ctrl-p,ctrl-q or ctrl-],x"))
    }
}

impl fmt::Display for DetachKeys {
    /// `Ctrl-P Ctrl-Q`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, &key) in self.0.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            match key {
                0..=0x1f => write!(f, "{space}Ctrl-{}", char::from(key + b'@'))?,
                _ => write!(f, "{space}{}", char::from(key))?,
            }
        }
        Ok(())
    }
}

/// `ctrl-p`, `ctrl-]`, or one ASCII character that can be seen. Not what a
/// terminal takes for the end of a line, or for no key at all.
fn key(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [key] if key.is_ascii_graphic() => Some(*key),
        [b'c', b't', b'r', b'l', b'-', key] => {
            let key = key.to_ascii_uppercase();
            let typed = (b'A'..=b'_').contains(&key) && !matches!(key, b'J' | b'M');
            typed.then_some(key.wrapping_sub(b'@'))
        }
        _ => None,
    }
}

impl DetachKeys {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Looks for the keys in what is typed, piece by piece.
#[derive(Debug)]
pub(super) struct Detector {
    keys: DetachKeys,
    matched: usize,
}

impl Detector {
    pub(super) fn new(keys: DetachKeys) -> Self {
        Self { keys, matched: 0 }
    }

    /// What goes to the agent of this piece; whether the keys were typed. What
    /// may become the keys is kept until it is known.
    pub(super) fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let keys = self.keys.bytes();
        let mut passed = Vec::with_capacity(typed.len() + self.matched);
        for &byte in typed {
            // As long as less than before may still become the keys: of `aab`
            // typed as `aaab` the first `a` goes to the agent.
            while keys.get(self.matched) != Some(&byte) && self.matched > 0 {
                let held = keys.get(..self.matched).unwrap_or_default();
                let kept = (1..self.matched)
                    .find(|&from| held.get(from..).is_some_and(|rest| keys.starts_with(rest)))
                    .map_or(0, |from| self.matched - from);
                passed.extend_from_slice(held.get(..self.matched - kept).unwrap_or_default());
                self.matched = kept;
            }
            if keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == keys.len() {
                    self.matched = 0;
                    return (passed, true);
                }
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }

    /// What was kept, where nothing more is typed.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        let held = self.keys.bytes().get(..self.matched).unwrap_or_default();
        self.matched = 0;
        held.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> DetachKeys {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_read() {
        assert_eq!(keys("ctrl-p,ctrl-q").bytes(), [16, 17]);
        assert_eq!(keys("ctrl-p,ctrl-],x").to_string(), "Ctrl-P Ctrl-] x");
        assert_eq!(keys("ctrl-P,x,ctrl-]").bytes(), [16, b'x', 0x1d]);
        for wrong in [
            "", "ctrl-", "ctrl-p,", "ctrl-1", "ctrl-@", "ctrl-m", "xy", "é", "ctrl-pq",
        ] {
            assert!(wrong.parse::<DetachKeys>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_else_is_passed_on() {
        for (keys, typed, passed, found) in [
            (
                "ctrl-p,ctrl-q",
                &[&b"ab\x10\x11cd"[..]][..],
                &b"ab"[..],
                true,
            ),
            ("ctrl-p,ctrl-q", &[b"\x10", b"\x11"], b"", true),
            ("ctrl-p,ctrl-q", &[b"\x10", b"x\x11"], b"\x10x\x11", false),
            ("ctrl-p,ctrl-q", &[b"\x10\x10\x11"], b"\x10", true),
            ("ctrl-p,ctrl-q", &[b"end\x10"], b"end\x10", false),
            ("a,a,b", &[b"aaab"], b"a", true),
            ("a,b,a,c", &[b"abab", b"ac"], b"ab", true),
            ("a,b,a,c", &[b"ababx"], b"ababx", false),
        ] {
            let mut detector = Detector::new(keys.parse().unwrap());
            let (mut all, mut detached) = (Vec::new(), false);
            for piece in typed {
                let (bytes, here) = detector.pass(piece);
                all.extend(bytes);
                detached |= here;
            }
            all.extend(detector.rest());
            assert_eq!((all.as_slice(), detached), (passed, found), "{typed:?}");
        }
    }
}
