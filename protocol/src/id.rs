//! Names of things: requests, agents, components.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Why a text is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not a UUID in its usual form.
    #[error("not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")]
    Uuid,
    /// Not a digest.
    #[error("not a digest of the form sha256:<64 hexadecimal digits>")]
    Digest,
    /// Not a name.
    #[error("not a name: 1 to 63 characters of a-z A-Z 0-9 . _ -, the first a letter or a digit")]
    Name,
}

fn parse_uuid(text: &str) -> Result<Uuid, InvalidId> {
    // `Uuid` itself also reads braces, URNs and forms without hyphens: two
    // spellings of one id would be two keys in some tables and one in others.
    if text.len() == uuid::fmt::Hyphenated::LENGTH {
        Uuid::try_parse(text).map_err(|_| InvalidId::Uuid)
    } else {
        Err(InvalidId::Uuid)
    }
}

macro_rules! text_form {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// A new random id.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// The id as bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The id of these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_uuid(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        text_form!($name);
    };
}

uuid_id! {
    /// Names a request, so that its reply is known and its repetition is
    /// recognised.
    RequestId
}

uuid_id! {
    /// Names an agent for as long as its host remembers it.
    AgentId
}

/// A SHA-256, `sha256:<hex>` on the wire: of a component, of an input, of what
/// was written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes. Costs about 2 ms a megabyte where the
    /// processor has no SHA instructions.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(crate) const fn from_sha256(hash: [u8; 32]) -> Self {
        Self(hash)
    }
}

impl FromStr for Digest {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let hex = text.strip_prefix("sha256:").ok_or(InvalidId::Digest)?;
        if hex.len() != 64 {
            return Err(InvalidId::Digest);
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let mut value = 0;
            for digit in pair {
                value = value << 4
                    | match digit {
                        b'0'..=b'9' => digit - b'0',
                        b'a'..=b'f' => digit - b'a' + 10,
                        _ => return Err(InvalidId::Digest),
                    };
            }
            *byte = value;
        }
        Ok(Self(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

text_form!(Digest);

/// An agent's name: 1 to 63 of `a-z A-Z 0-9 . _ -`, the first a letter or a
/// digit. It can stand in a path, a topic or a terminal without harm.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(String);

impl AgentName {
    /// The most characters that a name has.
    pub const MAX: usize = 63;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name made from any text: what is not allowed becomes `-`, and what is
    /// left of nothing is `agent`.
    #[must_use]
    pub fn from_lossy(text: &str) -> Self {
        let mut name: String = text
            .chars()
            .map(|c| if Self::allows(c) { c } else { '-' })
            .skip_while(|c| !c.is_ascii_alphanumeric())
            .take(Self::MAX)
            .collect();
        if name.is_empty() {
            name.push_str("agent");
        }
        Self(name)
    }

    fn allows(c: char) -> bool {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
    }
}

impl FromStr for AgentName {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let valid = (1..=Self::MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(Self::allows);
        valid.then(|| Self(text.to_owned())).ok_or(InvalidId::Name)
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(AgentName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let id = AgentId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        let plain = id.to_string().replace('-', "");
        assert_eq!(plain.parse::<AgentId>(), Err(InvalidId::Uuid));
        assert_eq!(
            format!("{{{plain}}}").parse::<AgentId>(),
            Err(InvalidId::Uuid)
        );
        assert_eq!("../../etc/passwd".parse::<AgentId>(), Err(InvalidId::Uuid));
    }

    #[test]
    fn digests_are_lower_case_hex() {
        let digest = Digest::of(b"abc");
        let text = digest.to_string();
        assert_eq!(
            text,
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(text.parse(), Ok(digest));
        for wrong in [
            "sha256:",
            "abc",
            &text[..70],
            &text.replace('b', "B"),
            &text.replace("sha256", "sha512"),
        ] {
            assert_eq!(wrong.parse::<Digest>(), Err(InvalidId::Digest), "{wrong}");
        }
    }

    #[test]
    fn names_are_harmless() {
        for good in ["a", "log-errors", "a.b_c-9", &"x".repeat(63)] {
            assert!(good.parse::<AgentName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".",
            "../x",
            "/etc",
            "a/b",
            "a\0",
            "a b",
            "é",
            "a\u{202e}b",
            &"x".repeat(64),
        ] {
            assert_eq!(bad.parse::<AgentName>(), Err(InvalidId::Name), "{bad}");
        }
        assert_eq!(
            AgentName::from_lossy("my agent (1)").as_str(),
            "my-agent--1-"
        );
        assert_eq!(AgentName::from_lossy("../x").as_str(), "x");
        assert_eq!(AgentName::from_lossy("é").as_str(), "agent");
    }
}
