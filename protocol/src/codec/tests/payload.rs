use super::*;

#[test]
fn a_request_reads_as_it_was_written() {
    for payload in valid() {
        let envelope = Envelope::parse(&payload).unwrap();
        assert_eq!(envelope.id, id());
        assert_eq!(peek_id(&payload), Some(id()));
        envelope.decode().unwrap();
    }
    let without_body = pack(&json!({"v": 1, "id": ID, "op": "host.hello"}));
    let envelope = Envelope::parse(&without_body).unwrap();
    assert_eq!(envelope.decode().unwrap(), Request::HostHello(HostHello {}));
}

#[test]
fn what_is_cut_short_or_goes_on_is_malformed() {
    for payload in valid() {
        let with_id = payload
            .windows(ID.len())
            .position(|w| w == ID.as_bytes())
            .unwrap()
            + ID.len();
        for length in 0..payload.len() {
            let rejection = rejected(&payload[..length]);
            assert_eq!(rejection.error.code, ErrorCode::Malformed);
            // The id is told as soon as it is there.
            assert_eq!(rejection.id, (length >= with_id).then(id));
        }
        let rejection = rejected(&[&payload[..], &[0xc0]].concat());
        assert_eq!(
            (rejection.error.code, rejection.id),
            (ErrorCode::Malformed, Some(id()))
        );
    }
}

#[test]
fn lengths_that_lie_are_malformed() {
    for marker in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
        let lie = [marker, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0];
        assert_malformed(&lie);
        assert_malformed(&request_of("agent.get", &lie));
    }
    for marker in [0xdc, 0xde, 0xda, 0xc5, 0xc8] {
        assert_malformed(&request_of("agent.get", &[marker, 0xff, 0xff, 0]));
    }
}

#[test]
fn what_messagepack_or_the_protocol_does_not_use_is_malformed() {
    assert_malformed(&request_of("host.hello", &[0xc1]));
    // fixext 4 (a timestamp), ext 8.
    assert_malformed(&request_of("host.hello", &[0xd6, 0xff, 0, 0, 0, 0]));
    assert_malformed(&request_of("host.hello", &[0xc7, 1, 5, 0]));
    for no_envelope in [
        &[][..],
        &[0xc0],
        &[0x80],
        &[0x90],
        &[0x01],
        &[0x81, 0x01, 0x02],
    ] {
        assert_malformed(no_envelope);
    }
}

#[test]
fn nesting_has_an_end() {
    assert_malformed(&[0x91; 100_000]);
    assert_malformed(&request_of("host.hello", &[0x91; 100_000]));
    let nested = |depth: usize| [&vec![0x91; depth - 1][..], &[0x90]].concat();
    assert_eq!(scan::check(&nested(MAX_NESTING), MAX_VALUES), Ok(()));
    assert!(scan::check(&nested(MAX_NESTING + 1), MAX_VALUES).is_err());
    // The envelope is the first level.
    Envelope::parse(&request_of("host.hello", &nested(MAX_NESTING - 1))).unwrap();
    assert_malformed(&request_of("host.hello", &nested(MAX_NESTING)));
}

#[test]
fn the_count_of_values_has_an_end() {
    let many = |count| json!({"states": vec!["running"; count]});
    // Eleven more: the envelope with its keys and values, the body with its key and array.
    let most = MAX_VALUES - 11;
    Envelope::parse(&request("agent.list", &many(most)))
        .unwrap()
        .decode()
        .unwrap();
    assert_malformed(&request("agent.list", &many(most + 1)));
    assert!(
        decode::<Value>(&pack(&many(most + 1))).is_ok(),
        "a host may say more"
    );
}

#[test]
fn the_longest_answers_of_a_host_are_read() {
    let agent = ID.parse().unwrap();
    let record = |seq| LogRecord {
        agent,
        run: 0,
        seq,
        stream: Stream::Stdout,
        time_ns: 1_760_000_000_000_000_000,
        data: ByteBuf::new(),
        partial: false,
    };
    // As many empty lines as a payload holds.
    let records: Vec<_> = (0..100_000).map(record).collect();
    let reply = OutputReply {
        records,
        next_seq: 0,
        end: false,
        expired: None,
    };
    let payload = encode_reply(id(), &reply).unwrap();
    assert!(
        payload.len() < MAX_PAYLOAD && payload.len() > MAX_PAYLOAD / 10 * 9,
        "{}",
        payload.len()
    );
    assert_eq!(decode_reply::<OutputReply>(&payload).unwrap(), Ok(reply));
}

#[test]
fn a_payload_over_the_cap_is_too_large_and_keeps_its_id() {
    let data = vec![0; MAX_PAYLOAD];
    let put = ComponentPut {
        digest: Digest::of(b""),
        size: 1,
        offset: 0,
        data: data.into(),
    };
    let rejection = rejected(&encode_request(id(), &put).unwrap());
    assert_eq!(rejection.id, Some(id()));
    assert_eq!(rejection.error.code, ErrorCode::TooLarge);
    assert_eq!(
        rejection.error.details.limit.as_deref(),
        Some("payload_bytes")
    );
}
