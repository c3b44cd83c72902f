#![expect(clippy::print_stdout, reason = "which case ran, and what it cost")]

mod bounds;
mod journal;
mod outage;
mod recovery;
mod sequence;
mod unsaved;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use skep_protocol::event::LogRecord;
use skep_protocol::op::SeqRange;

use super::*;
use crate::log::Logs;
use crate::log::tail::cost;

const MIB: u64 = 1024 * 1024;

fn stored(data: impl Into<Bytes>, stream: Stream) -> Stored {
    Stored {
        stream,
        run: 0,
        time_ns: 0,
        partial: false,
        data: data.into(),
    }
}

fn line(seq: u64) -> Vec<u8> {
    format!("the line of number {seq}").into_bytes()
}

/// Records of these numbers, each of which can be told from the others.
fn lines(numbers: Range<u64>) -> Arc<Vec<Stored>> {
    let records = numbers.map(|seq| Stored {
        run: seq % 3,
        time_ns: seq * 1000,
        partial: seq % 5 == 0,
        ..stored(line(seq), Stream::ALL[usize::from(seq % 7 == 0)])
    });
    Arc::new(records.collect())
}

fn check(record: &LogRecord) {
    let seq = record.seq;
    let expected = &lines(seq..seq + 1)[0];
    assert_eq!(record.data, line(seq), "the data of {seq}");
    assert_eq!(
        (record.run, record.time_ns, record.partial, record.stream),
        (
            expected.run,
            expected.time_ns,
            expected.partial,
            expected.stream
        ),
        "{seq}"
    );
}

impl History {
    /// What a run adds that has no end.
    async fn add(&self, records: &Arc<Vec<Stored>>) -> u64 {
        self.commit(records, &Patience::default()).await
    }
}

fn range(from_seq: u64, to_seq: u64) -> Option<SeqRange> {
    Some(SeqRange { from_seq, to_seq })
}

/// All that is there from a number on, page by page, and the ranges that are
/// not.
async fn all(history: &Arc<History>, from_seq: u64) -> (Runs, Vec<SeqRange>) {
    let (mut records, mut gaps, mut next) = (Runs::new(), Vec::new(), from_seq);
    loop {
        let window = history.window(next, &Stream::ALL, 100_000).await.unwrap();
        gaps.extend(window.expired);
        for record in &window.records {
            check(record);
            match records.last_mut() {
                Some(run) if run.end == record.seq => run.end += 1,
                Some(run) => {
                    assert!(record.seq > run.end, "{} after {run:?}", record.seq);
                    records.push(record.seq..record.seq + 1);
                }
                None => records.push(record.seq..record.seq + 1),
            }
        }
        assert!(
            window.next_seq > next || window.caught_up,
            "no progress at {next}"
        );
        next = window.next_seq;
        if window.caught_up {
            assert_eq!(next, history.next_seq().max(from_seq));
            return (records, gaps);
        }
    }
}

type Runs = Vec<Range<u64>>;

fn numbers(range: Range<u64>) -> Runs {
    if range.is_empty() {
        Vec::new()
    } else {
        vec![range]
    }
}

fn in_memory(bound: u64, budget: &Arc<Budget>) -> Arc<History> {
    Arc::new(Logs::in_memory(Arc::clone(budget)).create(AgentId::random(), bound))
}

/// Logs in a directory of their own, and one agent.
struct Kept {
    dir: tempfile::TempDir,
    budget: Arc<Budget>,
    logs: Logs,
    agent: AgentId,
    history: Arc<History>,
}

fn on_disk(bound: u64) -> Kept {
    on_disk_within(bound, u64::MAX)
}

fn on_disk_within(bound: u64, budget: u64) -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::new(budget);
    let logs = Logs::on_disk(&dir.path().join("logs"), Arc::clone(&budget)).unwrap();
    logs.took_up();
    let agent = AgentId::random();
    let history = Arc::new(logs.create(agent, bound));
    Kept {
        dir,
        budget,
        logs,
        agent,
        history,
    }
}

impl Kept {
    fn root(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    fn first_in_memory(&self) -> u64 {
        self.history.tail().first_seq()
    }

    fn directory(&self) -> PathBuf {
        self.root().join(self.agent.to_string())
    }

    /// The directory as a host finds it that comes after one which was killed.
    fn left_behind(self) -> (tempfile::TempDir, AgentId) {
        (self.dir, self.agent)
    }
}

fn recover(dir: &Path, agent: AgentId, bound: u64) -> Arc<History> {
    let logs = open(&dir.join("logs"));
    Arc::new(logs.recover(agent, bound, 0).unwrap().unwrap())
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.with_extension("").ends_with("allowance"))
        .collect();
    found.sort();
    found
}

/// What the file says of how far records may be ahead of the disk.
fn allowance(root: &Path) -> Option<u64> {
    let bytes = std::fs::read(root.join("allowance")).ok()?;
    Some(u64::from_le_bytes(*bytes.first_chunk()?))
}

fn is_journal(path: &Path) -> bool {
    path.file_name()
        .unwrap()
        .to_string_lossy()
        .starts_with("journal-")
}

fn open(root: &Path) -> Logs {
    Logs::on_disk(root, Budget::new(u64::MAX)).unwrap()
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
