//! MessagePack, one value at a time, on bytes that nobody has vouched for.
//!
//! Every length is compared with the bytes that are left before it is used for
//! anything; nothing recurses, nothing is allocated, nothing panics.

use std::fmt;

use crate::MAX_NESTING;

/// Why bytes are not MessagePack as this protocol uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const ENDS_EARLY: Malformed = Malformed("it ends in the middle of a value");
const TOO_LONG: Malformed = Malformed("a length is greater than the payload");

/// Whether these bytes are exactly one value, within the caps.
pub(super) fn check(payload: &[u8], max_values: usize) -> Result<(), Malformed> {
    let mut scanner = Scanner::new(payload);
    scanner.skip(max_values)?;
    if scanner.is_empty() {
        Ok(())
    } else {
        Err(Malformed("bytes follow the value"))
    }
}

/// The beginning of a value. That of a string or of bytes is the whole of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Head<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    /// Negative, always: one number has one form here, however it was encoded.
    Signed(i64),
    Float(f64),
    /// Not yet known to be UTF-8.
    Str(&'a [u8]),
    Bin(&'a [u8]),
    Array(usize),
    /// The number of pairs.
    Map(usize),
}

impl<'a> Head<'a> {
    /// What one value, scanned before, begins with.
    pub(super) fn of(value: &'a [u8]) -> Self {
        Scanner::new(value).head().unwrap_or(Self::Nil)
    }
}

/// Reads values from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value's beginning, without reading it.
    pub(super) fn peek(&self) -> Result<Head<'a>, Malformed> {
        Self::new(self.rest).head()
    }

    /// Reads a value's beginning.
    pub(super) fn head(&mut self) -> Result<Head<'a>, Malformed> {
        let [marker] = self.bytes()?;
        Ok(match marker {
            0x00..=0x7f => Head::Unsigned(marker.into()),
            0x80..=0x8f => self.map(usize::from(marker & 0x0f))?,
            0x90..=0x9f => self.array(usize::from(marker & 0x0f))?,
            0xa0..=0xbf => Head::Str(self.take(usize::from(marker & 0x1f))?),
            0xc0 => Head::Nil,
            0xc1 => {
                return Err(Malformed(
                    "it has the byte c1, which MessagePack does not use",
                ));
            }
            0xc2 => Head::Bool(false),
            0xc3 => Head::Bool(true),
            0xc4 => Head::Bin(self.sized::<1>()?),
            0xc5 => Head::Bin(self.sized::<2>()?),
            0xc6 => Head::Bin(self.sized::<4>()?),
            0xc7..=0xc9 | 0xd4..=0xd8 => {
                return Err(Malformed(
                    "it has an extension type, which this protocol does not use",
                ));
            }
            0xca => Head::Float(f32::from_be_bytes(self.bytes()?).into()),
            0xcb => Head::Float(f64::from_be_bytes(self.bytes()?)),
            0xcc => Head::Unsigned(u8::from_be_bytes(self.bytes()?).into()),
            0xcd => Head::Unsigned(u16::from_be_bytes(self.bytes()?).into()),
            0xce => Head::Unsigned(u32::from_be_bytes(self.bytes()?).into()),
            0xcf => Head::Unsigned(u64::from_be_bytes(self.bytes()?)),
            0xd0 => signed(i8::from_be_bytes(self.bytes()?).into()),
            0xd1 => signed(i16::from_be_bytes(self.bytes()?).into()),
            0xd2 => signed(i32::from_be_bytes(self.bytes()?).into()),
            0xd3 => signed(i64::from_be_bytes(self.bytes()?)),
            0xd9 => Head::Str(self.sized::<1>()?),
            0xda => Head::Str(self.sized::<2>()?),
            0xdb => Head::Str(self.sized::<4>()?),
            0xdc => {
                let n = self.length::<2>()?;
                self.array(n)?
            }
            0xdd => {
                let n = self.length::<4>()?;
                self.array(n)?
            }
            0xde => {
                let n = self.length::<2>()?;
                self.map(n)?
            }
            0xdf => {
                let n = self.length::<4>()?;
                self.map(n)?
            }
            0xe0..=0xff => signed(i8::from_be_bytes([marker]).into()),
        })
    }

    /// Reads the beginning of a map: how many pairs follow.
    pub(super) fn map_len(&mut self) -> Result<usize, Malformed> {
        match self.head()? {
            Head::Map(pairs) => Ok(pairs),
            _ => Err(Malformed("it is not a map")),
        }
    }

    /// Reads a string.
    pub(super) fn string(&mut self) -> Result<&'a str, Malformed> {
        match self.head()? {
            Head::Str(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))
            }
            _ => Err(Malformed("something else stands where a string belongs")),
        }
    }

    /// Reads one whole value, whatever it is, and returns its bytes.
    pub(super) fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let before = self.rest;
        self.skip(usize::MAX)?;
        let length = before.len() - self.rest.len();
        Ok(before.get(..length).unwrap_or_default())
    }

    /// Passes over one whole value that holds no more than so many values,
    /// itself and the keys of maps among them.
    pub(super) fn skip(&mut self, max_values: usize) -> Result<(), Malformed> {
        // How many values each open container still lacks.
        let mut lacking = [0_usize; MAX_NESTING];
        let mut depth = 0_usize;
        let mut values = 0_usize;
        loop {
            values += 1;
            if values > max_values {
                return Err(Malformed("it holds too many values"));
            }
            let inside = match self.head()? {
                Head::Array(items) => Some(items),
                Head::Map(pairs) => Some(pairs.saturating_mul(2)),
                _ => None,
            };
            if let Some(inside) = inside {
                let top = lacking
                    .get_mut(depth)
                    .ok_or(Malformed("it nests too deeply"))?;
                *top = inside;
                depth += 1;
            }
            loop {
                let Some(top) = depth.checked_sub(1).and_then(|top| lacking.get_mut(top)) else {
                    return Ok(());
                };
                if *top > 0 {
                    *top -= 1;
                    break;
                }
                depth -= 1;
            }
        }
    }

    /// Each item takes a byte at least: a longer claim is a lie.
    fn array(&self, items: usize) -> Result<Head<'a>, Malformed> {
        if items > self.rest.len() {
            Err(TOO_LONG)
        } else {
            Ok(Head::Array(items))
        }
    }

    fn map(&self, pairs: usize) -> Result<Head<'a>, Malformed> {
        if pairs > self.rest.len() / 2 {
            Err(TOO_LONG)
        } else {
            Ok(Head::Map(pairs))
        }
    }

    fn sized<const N: usize>(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.length::<N>()?;
        self.take(length)
    }

    fn length<const N: usize>(&mut self) -> Result<usize, Malformed> {
        let bytes: [u8; N] = self.bytes()?;
        Ok(bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(TOO_LONG)?;
        self.rest = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(*taken)
    }
}

const fn signed<'a>(number: i64) -> Head<'a> {
    if number < 0 {
        Head::Signed(number)
    } else {
        Head::Unsigned(number.unsigned_abs())
    }
}
