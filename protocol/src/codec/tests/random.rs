use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn bytes() -> impl Strategy<Value = ByteBuf> {
    vec(any::<u8>(), 0..40).prop_map(ByteBuf::from)
}

fn any_name() -> impl Strategy<Value = AgentName> {
    "[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}".prop_map(|name| name.parse().unwrap())
}

fn any_spec() -> impl Strategy<Value = AgentSpec> {
    let component = option::of(prop_oneof![
        bytes().prop_map(ComponentRef::Data),
        bytes().prop_map(|bytes| ComponentRef::Digest(Digest::of(&bytes))),
    ]);
    let stdin = prop_oneof![
        Just(Stdin::Closed),
        Just(Stdin::Open),
        bytes().prop_map(Stdin::Data)
    ];
    let dir = (
        text(),
        text(),
        prop_oneof![Just(DirMode::Ro), Just(DirMode::Rw)],
    )
        .prop_map(|(host, guest, mode)| DirGrant { host, guest, mode });
    let env = btree_map(text(), text(), 0..4);
    let limits = (option::of(any::<u64>()), option::of(any::<u64>()));
    (
        any_name(),
        component,
        vec(text(), 0..4),
        env,
        stdin,
        limits,
        vec(dir, 0..3),
        text(),
    )
        .prop_map(
            |(name, component, args, env, stdin, (fuel, files), dirs, task)| AgentSpec {
                component,
                args,
                labels: env.clone(),
                env,
                stdin,
                limits: LimitsAsk {
                    fuel,
                    files,
                    ..LimitsAsk::default()
                },
                grants: Grants {
                    dirs,
                    ..Grants::default()
                },
                task,
                ..AgentSpec::named(name)
            },
        )
}

/// What is done to bytes on their way.
#[derive(Debug, Clone)]
enum Harm {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Cut(usize),
    Double(usize, usize),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let at = any::<usize>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Harm::Insert(at, byte)),
        at().prop_map(Harm::Remove),
        at().prop_map(Harm::Cut),
        (at(), at()).prop_map(|(from, to)| Harm::Double(from, to)),
    ]
}

fn harm(bytes: &mut Vec<u8>, harm: &Harm) {
    let length = bytes.len().max(1);
    match *harm {
        _ if bytes.is_empty() => {}
        Harm::Set(at, byte) => bytes[at % length] = byte,
        Harm::Insert(at, byte) => bytes.insert(at % length, byte),
        Harm::Remove(at) => drop(bytes.remove(at % length)),
        Harm::Cut(at) => bytes.truncate(at % length),
        Harm::Double(from, to) => {
            let piece = bytes[from % length..].to_vec();
            let to = to % length;
            bytes.splice(to..to, piece);
        }
    }
}

fn read_everything(payload: &[u8]) {
    let id = peek_id(payload);
    match Envelope::parse(payload) {
        Ok(envelope) => {
            assert_eq!(id, Some(envelope.id));
            if let Err(error) = envelope.decode() {
                assert_eq!(error.code, ErrorCode::InvalidArgument);
                assert!(error.details.field.is_some());
            }
        }
        Err(rejection) => drop(encode_error(rejection.id, &rejection.error).unwrap()),
    }
    let _ = decode_reply::<AgentReply>(payload);
    let _ = decode::<StatusEvent>(payload);
    let _ = decode::<LogRecord>(payload);
    let _ = decode::<Value>(payload);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_malformed(payload in vec(any::<u8>(), 0..200)) {
        read_everything(&payload);
        prop_assert_eq!(rejected(&payload).error.code, ErrorCode::Malformed);
    }

    #[test]
    fn harmed_requests_panic_nobody(which in 0..4_usize, harms in vec(any_harm(), 1..6)) {
        let mut payload = valid().swap_remove(which);
        for each in &harms {
            harm(&mut payload, each);
            read_everything(&payload);
        }
    }

    #[test]
    fn harmed_replies_panic_nobody(spec in any_spec(), harms in vec(any_harm(), 1..6)) {
        let mut payload = encode_reply(id(), &spec).unwrap();
        for each in &harms {
            harm(&mut payload, each);
            read_everything(&payload);
            let _ = decode_reply::<AgentSpec>(&payload);
        }
    }

    #[test]
    fn spawns_come_back(spec in any_spec()) {
        let spawn = AgentSpawn { spec, when_full: None };
        let payload = encode_request(id(), &spawn).unwrap();
        let request = Envelope::parse(&payload).unwrap().decode().unwrap();
        prop_assert_eq!(request, Request::AgentSpawn(spawn));
    }

    #[test]
    fn lists_come_back(
        states in option::of(vec(proptest::sample::select(&AgentState::ALL[..]), 0..6)),
        name in option::of(any_name()),
        labels in btree_map(text(), text(), 0..4),
        limit in option::of(any::<u64>()),
    ) {
        let list = AgentList { states, name, labels, limit, after: None };
        let payload = encode_request(id(), &list).unwrap();
        let request = Envelope::parse(&payload).unwrap().decode().unwrap();
        prop_assert_eq!(request, Request::AgentList(list));
    }

    #[test]
    fn records_come_back(
        seq in any::<u64>(), time_ns in any::<u64>(), data in bytes(), partial in any::<bool>(),
    ) {
        let agent = ID.parse().unwrap();
        let record = LogRecord { agent, run: 0, seq, stream: Stream::Stderr, time_ns, data, partial };
        prop_assert_eq!(decode::<LogRecord>(&encode(&record).unwrap()).unwrap(), record);
    }
}
