//! Receipts: what ran, within which limits, how it ended and what it wrote, in
//! a form that can be checked later by who has the same bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::spec::{ComponentRef, DirGrant, Grants, OnFuelExhausted, Restart, Stdin};
use crate::{AgentId, AgentSpec, Digest, Limits, LimitsAsk, Outcome, RunnerKind};

/// The record of one run of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Whose.
    pub agent: AgentId,
    /// Which run, from 0: the last one.
    pub run: u64,
    /// The component of a wasm agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<Digest>,
    /// Program and arguments of a native agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The SHA-256 of the spec in its canonical form, see [`CanonicalSpec`].
    pub spec_digest: Digest,
    /// Its limits, resolved; fuel with what was added since.
    pub limits: Limits,
    /// Instructions run (wasm).
    pub fuel_used: u64,
    /// The most bytes of memory.
    pub memory_peak_bytes: u64,
    /// When it was spawned, in milliseconds since the epoch.
    pub created_ms: u64,
    /// When it began to run; absent if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When it ended.
    pub exited_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// All that this run wrote to stdout.
    pub stdout: StreamReceipt,
    /// All that this run wrote to stderr.
    pub stderr: StreamReceipt,
}

/// What was written to one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReceipt {
    /// The SHA-256 of all bytes.
    pub sha256: Digest,
    /// How many there are.
    pub bytes: u64,
}

/// Makes a [`StreamReceipt`] of bytes as they come.
#[derive(Debug, Clone, Default)]
pub struct StreamHash {
    sha: Sha256,
    bytes: u64,
}

impl StreamHash {
    /// Adds the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.sha.update(data);
        self.bytes += data.len() as u64;
    }

    /// The receipt of all bytes.
    #[must_use]
    pub fn finish(self) -> StreamReceipt {
        StreamReceipt {
            sha256: Digest::from_sha256(self.sha.finalize().into()),
            bytes: self.bytes,
        }
    }
}

/// A spec in the one form that its digest is made of: JSON in UTF-8 without
/// blanks, the members of every object sorted by the bytes of their names, and
/// within texts only `"`, `\` and characters below U+0020 escaped, as `\"`,
/// `\\`, `\b`, `\f`, `\n`, `\r`, `\t` or `\u00xx` in lower case. Python's
/// `json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)`
/// writes it so.
///
/// Its members are those of the spec on the wire, but:
/// - what is left out, empty, or what holds where it is left out (`runner` wasm,
///   `stdin` closed, `on_fuel_exhausted` exit, `restart` never, `scratch`
///   false) is left out, so that a spec which says nothing of what later
///   builds add keeps its digest;
/// - `component` is always `{"digest": "sha256:…"}`, and the `data` of `stdin`
///   is its `sha256:…`.
///
/// The values of `env` count in it: who knows the rest may try them out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalSpec(Map<String, Value>);

impl CanonicalSpec {
    /// The form of a spec. A component that it brings is hashed; see
    /// [`made_of`](Self::made_of) where that was done already.
    ///
    /// # Errors
    /// If a spec cannot be written as JSON, which would be a bug.
    pub fn of(spec: &AgentSpec) -> Result<Self, serde_json::Error> {
        let form = Self::without_component(spec)?;
        Ok(match &spec.component {
            None => form,
            Some(ComponentRef::Digest(digest)) => form.made_of(*digest),
            Some(ComponentRef::Data(data)) => form.made_of(Digest::of(data)),
        })
    }

    /// The form of a spec of which it is not told yet what it is made of.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn without_component(spec: &AgentSpec) -> Result<Self, serde_json::Error> {
        match serde_json::to_value(Members::of(spec))? {
            Value::Object(members) => Ok(Self(members)),
            _ => Ok(Self(Map::new())),
        }
    }

    /// The same, of an agent that is made of this component.
    #[must_use]
    pub fn made_of(mut self, component: Digest) -> Self {
        let digest = Value::String(component.to_string());
        let component = Map::from_iter([("digest".to_owned(), digest)]);
        self.0
            .insert("component".to_owned(), Value::Object(component));
        self
    }

    /// The text.
    #[must_use]
    pub fn text(self) -> String {
        Value::Object(self.0).to_string()
    }

    /// The digest of the text.
    #[must_use]
    pub fn digest(self) -> Digest {
        Digest::of(self.text().as_bytes())
    }
}

#[derive(Serialize)]
struct Members<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    runner: RunnerKind,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    command: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    args: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    task: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    context: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    system_prompt: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    model: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdin: Option<StdinMember>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    inputs: &'a BTreeMap<String, Digest>,
    #[serde(skip_serializing_if = "is_default")]
    limits: LimitsAsk,
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<GrantsMember<'a>>,
    #[serde(skip_serializing_if = "is_default")]
    on_fuel_exhausted: OnFuelExhausted,
    #[serde(skip_serializing_if = "is_default")]
    restart: Restart,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum StdinMember {
    Open,
    Data(Digest),
}

#[derive(Serialize)]
struct GrantsMember<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    dirs: &'a [DirGrant],
    #[serde(skip_serializing_if = "is_default")]
    scratch: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    http: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    messages: &'a [String],
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl<'a> Members<'a> {
    fn of(spec: &'a AgentSpec) -> Self {
        // Taken apart by name, so that a new member of a spec cannot be
        // forgotten here.
        let AgentSpec {
            name,
            runner,
            component: _,
            command,
            args,
            env,
            task,
            context,
            system_prompt,
            model,
            labels,
            stdin,
            inputs,
            limits,
            grants,
            on_fuel_exhausted,
            restart,
        } = spec;
        let Grants {
            dirs,
            scratch,
            http,
            messages,
        } = grants;
        Self {
            name: name.as_str(),
            runner: *runner,
            command,
            args,
            env,
            task,
            context,
            system_prompt,
            model,
            labels,
            stdin: match stdin {
                Stdin::Closed => None,
                Stdin::Open => Some(StdinMember::Open),
                Stdin::Data(data) => Some(StdinMember::Data(Digest::of(data))),
            },
            inputs,
            limits: *limits,
            grants: (*grants != Grants::default()).then_some(GrantsMember {
                dirs,
                scratch: *scratch,
                http,
                messages,
            }),
            on_fuel_exhausted: *on_fuel_exhausted,
            restart: *restart,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_bytes::ByteBuf;

    use super::*;
    use crate::spec::DirMode;

    fn minimal() -> AgentSpec {
        AgentSpec {
            component: Some(ComponentRef::Data(ByteBuf::from(b"\0asm".to_vec()))),
            ..AgentSpec::named("a".parse().unwrap())
        }
    }

    #[test]
    fn the_least_spec_is_a_name_and_what_it_is_made_of() {
        let component = Digest::of(b"\0asm");
        let text = CanonicalSpec::of(&minimal()).unwrap().text();
        assert_eq!(
            text,
            format!(r#"{{"component":{{"digest":"{component}"}},"name":"a"}}"#)
        );
        let by_digest = AgentSpec {
            component: Some(ComponentRef::Digest(component)),
            ..minimal()
        };
        assert_eq!(CanonicalSpec::of(&by_digest).unwrap().text(), text);
        let later = CanonicalSpec::without_component(&minimal()).unwrap();
        assert_eq!(later.made_of(component).text(), text);
    }

    /// What any other language has to write, byte for byte.
    #[test]
    fn names_are_sorted_and_texts_escaped_as_is_told() {
        let text = |text: &str| text.to_owned();
        let spec = AgentSpec {
            runner: RunnerKind::Native,
            component: None,
            command: vec![text("/bin/sh"), text("ä\"\\\n\u{1}\u{7f}\u{2028}/")],
            env: [(text("B"), text("")), (text("A"), text("2"))].into(),
            stdin: Stdin::Data(ByteBuf::from(b"in".to_vec())),
            inputs: [(text("d/x"), Digest::of(b"x"))].into(),
            limits: LimitsAsk {
                wall_ms: Some(5),
                fuel: Some(1_000_000_000_000),
                ..LimitsAsk::default()
            },
            grants: Grants {
                dirs: vec![DirGrant {
                    host: text("/h"),
                    guest: text("/g"),
                    mode: DirMode::Ro,
                }],
                scratch: true,
                ..Grants::default()
            },
            on_fuel_exhausted: OnFuelExhausted::Pause,
            ..minimal()
        };
        let expected = [
            r#"{"command":["/bin/sh","ä\"\\\n\u0001"#,
            "\u{7f}\u{2028}",
            r#"/"],"env":{"A":"2","B":""},"#,
            r#""grants":{"dirs":[{"guest":"/g","host":"/h","mode":"ro"}],"scratch":true},"#,
            &format!(r#""inputs":{{"d/x":"{}"}},"#, Digest::of(b"x")),
            r#""limits":{"fuel":1000000000000,"wall_ms":5},"name":"a","#,
            r#""on_fuel_exhausted":"pause","runner":"native","#,
            &format!(r#""stdin":{{"data":"{}"}}}}"#, Digest::of(b"in")),
        ]
        .concat();
        let form = CanonicalSpec::of(&spec).unwrap();
        assert_eq!(form.clone().text(), expected);
        assert_eq!(form.digest(), Digest::of(expected.as_bytes()));
    }

    #[test]
    fn every_part_counts() {
        let whole = CanonicalSpec::of(&minimal()).unwrap();
        let changes: [fn(&mut AgentSpec); 6] = [
            |spec| spec.stdin = Stdin::Open,
            |spec| spec.stdin = Stdin::Data(ByteBuf::new()),
            |spec| spec.grants.scratch = true,
            |spec| drop(spec.env.insert("A".to_owned(), String::new())),
            |spec| spec.component = Some(ComponentRef::Data(ByteBuf::new())),
            |spec| spec.limits.fuel = Some(1),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut spec = minimal();
            change(&mut spec);
            assert_ne!(CanonicalSpec::of(&spec).unwrap(), whole, "{index}");
        }
    }

    #[test]
    fn a_stream_is_hashed_as_a_whole() {
        let mut hash = StreamHash::default();
        hash.update(b"he");
        hash.update(b"");
        hash.update(b"llo");
        let receipt = hash.finish();
        assert_eq!((receipt.sha256, receipt.bytes), (Digest::of(b"hello"), 5));
    }
}
