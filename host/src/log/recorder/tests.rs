use serde_bytes::ByteBuf;
use skep_protocol::event::LogRecord;

use super::*;
use crate::log::{Budget, Logs};
use crate::stdio::output;

fn recorder(bytes_per_s: u64) -> (Recorder, Arc<History>, CancellationToken) {
    let agent = AgentId::random();
    let history = Logs::in_memory(Budget::new(u64::MAX)).create(agent, u64::MAX);
    let history = Arc::new(history);
    let ended = CancellationToken::new();
    let (wire, _connection) = skep_transport::local();
    let recorder = Recorder {
        agent,
        run: 0,
        may_run_again: false,
        history: Arc::clone(&history),
        publisher: wire.publisher,
        bytes_per_s,
        count: RecordCount::default(),
        ended: ended.clone(),
    };
    (recorder, history, ended)
}

async fn read(history: &Arc<History>) -> Vec<(Stream, Vec<u8>, bool)> {
    let window = history.window(0, &Stream::ALL, u64::MAX).await.unwrap();
    (window.records)
        .into_iter()
        .map(|r| (r.stream, r.data.into_vec(), r.partial))
        .collect()
}

#[test]
fn a_record_is_written_as_the_protocol_says() {
    let agent = AgentId::random();
    let record = LogRecord {
        agent,
        run: 0,
        seq: 7,
        stream: Stream::Stderr,
        time_ns: 1 << 60,
        data: ByteBuf::from(vec![0xff, 0]),
        partial: true,
    };
    let out = RecordOut {
        agent: &agent.to_string(),
        run: 0,
        seq: 7,
        stream: Stream::Stderr,
        time_ns: 1 << 60,
        data: serde_bytes::Bytes::new(&[0xff, 0]),
        partial: true,
    };
    assert_eq!(
        codec::encode(&out).unwrap(),
        codec::encode(&record).unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_line_is_recorded_after_a_while() {
    let (recorder, history, _ended) = recorder(u64::MAX);
    let (out, err, reader) = output();
    let running = tokio::spawn(recorder.run(reader));
    out.write(b"done\nname? ");
    tokio::time::sleep(FLUSH_AFTER / 2).await;
    assert_eq!(
        read(&history).await,
        [(Stream::Stdout, b"done".to_vec(), false)]
    );
    tokio::time::sleep(FLUSH_AFTER).await;
    assert_eq!(
        read(&history).await[1],
        (Stream::Stdout, b"name? ".to_vec(), true)
    );
    out.write(b"\n");
    err.write(b"tail");
    drop((out, err));
    running.await.unwrap();
    assert_eq!(
        read(&history).await[2..],
        [
            (Stream::Stdout, Vec::new(), false),
            (Stream::Stderr, b"tail".to_vec(), true)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_fast_writer_waits_for_its_rate_and_its_end_does_not() {
    let (recorder, _history, ended) = recorder(64 * 1024);
    let (out, err, reader) = output();
    drop(err);
    let running = tokio::spawn(recorder.run(reader));
    let start = Instant::now();
    out.write_all(&vec![b'\n'; 640 * 1024]).await;
    let took = start.elapsed();
    assert!(
        (Duration::from_secs(7)..Duration::from_secs(11)).contains(&took),
        "{took:?}"
    );
    ended.cancel();
    drop(out);
    running.await.unwrap();
    assert!(start.elapsed() - took < Duration::from_secs(1));
}

#[tokio::test]
async fn what_was_written_is_hashed_whatever_its_lines() {
    let (recorder, history, _ended) = recorder(u64::MAX);
    let (stdout, stderr, reader) = output();
    let recording = tokio::spawn(recorder.run(reader));
    for piece in [&b"one\ntw"[..], b"o\n", b"\n", &[0xff; 40_000], b"tail"] {
        stdout.write_all(piece).await;
    }
    stderr.write_all(b"\xff\n").await;
    drop((stdout, stderr));
    let written = recording.await.unwrap();
    for (stream, receipt) in [
        (Stream::Stdout, written.stdout),
        (Stream::Stderr, written.stderr),
    ] {
        let mut hash = StreamHash::default();
        for (_, data, partial) in
            (read(&history).await.into_iter()).filter(|(of, ..)| *of == stream)
        {
            hash.update(&data);
            hash.update(if partial { b"" } else { b"\n" });
        }
        assert_eq!(hash.finish(), receipt);
    }
    assert_eq!(written.stdout.bytes, 40_000 + 13);
}
