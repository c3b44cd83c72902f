use std::collections::BTreeMap;

use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use super::*;
use crate::error::ErrorCode;
use crate::event::{LogRecord, StatusEvent, Stream};
use crate::op::{
    AgentGet, AgentList, AgentReply, AgentSpawn, AgentStdin, ComponentPut, Done, HostHello, Op,
    OutputReply, Request,
};
use crate::spec::{AgentSpec, ComponentRef, DirGrant, DirMode, Grants, Stdin};
use crate::{AgentId, AgentName, AgentState, Digest, LimitsAsk, MAX_NESTING, MAX_VALUES};

mod envelope;
mod fields;
mod payload;
mod random;

const ID: &str = "6f9619ff-8b86-4011-b42d-00c04fc964ff";

fn id() -> RequestId {
    ID.parse().unwrap()
}

fn pack(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec(value).unwrap()
}

fn request(op: &str, body: &Value) -> Vec<u8> {
    pack(&json!({"v": 1, "id": ID, "op": op, "body": body}))
}

/// A request whose body is these bytes.
fn request_of(op: &str, body: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x84];
    for text in ["v", "id", "op", "body"] {
        rmp::encode::write_str(&mut payload, text).unwrap();
        match text {
            "v" => payload.push(1),
            "id" => rmp::encode::write_str(&mut payload, ID).unwrap(),
            "op" => rmp::encode::write_str(&mut payload, op).unwrap(),
            _ => payload.extend_from_slice(body),
        }
    }
    payload
}

/// A map, written down as it is told, with repeated keys and all.
fn map(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut map = Vec::new();
    rmp::encode::write_map_len(&mut map, u32::try_from(pairs.len()).unwrap()).unwrap();
    for (key, value) in pairs {
        rmp::encode::write_str(&mut map, key).unwrap();
        map.extend_from_slice(value);
    }
    map
}

fn rejected(payload: &[u8]) -> Rejection {
    Envelope::parse(payload).unwrap_err()
}

fn assert_malformed(payload: &[u8]) {
    assert_eq!(
        rejected(payload).error.code,
        ErrorCode::Malformed,
        "{payload:02x?}"
    );
}

fn refused(payload: &[u8]) -> WireError {
    Envelope::parse(payload).unwrap().decode().unwrap_err()
}

fn assert_field(payload: &[u8], field: &str) {
    let error = refused(payload);
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert_eq!(error.details.field.as_deref(), Some(field), "{error}");
    assert!(error.message.contains(field), "{error}");
}

fn spec() -> AgentSpec {
    AgentSpec {
        component: Some(ComponentRef::Data(ByteBuf::from(vec![0, 1, 0xff]))),
        env: BTreeMap::from([("KEY".to_owned(), "value".to_owned())]),
        stdin: Stdin::Data(ByteBuf::from(vec![1, 2, 3])),
        limits: LimitsAsk {
            fuel: Some(1_000_000_000_000),
            ..LimitsAsk::default()
        },
        grants: Grants {
            dirs: vec![DirGrant {
                host: "/a".into(),
                guest: "/b".into(),
                mode: DirMode::Ro,
            }],
            ..Grants::default()
        },
        ..AgentSpec::named("a".parse().unwrap())
    }
}

fn valid() -> Vec<Vec<u8>> {
    let agent: AgentId = ID.parse().unwrap();
    vec![
        encode_request(id(), &HostHello {}).unwrap(),
        encode_request(id(), &AgentGet { agent }).unwrap(),
        encode_request(
            id(),
            &AgentSpawn {
                spec: spec(),
                when_full: None,
            },
        )
        .unwrap(),
        encode_request(
            id(),
            &AgentStdin {
                agent,
                data: Some(ByteBuf::from(vec![9; 300])),
                close: true,
            },
        )
        .unwrap(),
    ]
}
