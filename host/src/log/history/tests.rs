#![expect(clippy::print_stdout, reason = "which case ran, and what it cost")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use skep_protocol::event::LogRecord;
use skep_protocol::op::SeqRange;

use super::*;
use crate::log::tail::cost;
use crate::log::{Logs, OpenError};

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
    Arc::new(logs.recover(agent, bound).unwrap().unwrap())
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

fn is_journal(path: &Path) -> bool {
    path.file_name()
        .unwrap()
        .to_string_lossy()
        .starts_with("journal-")
}

/// Another test may be starting a process, which has our lock until it runs its
/// program.
fn open(root: &Path) -> Logs {
    let start = Instant::now();
    loop {
        match Logs::on_disk(root, Budget::new(u64::MAX)) {
            Err(OpenError::InUse(_)) if start.elapsed() < Duration::from_secs(10) => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn numbers_have_no_hole_and_the_oldest_expire() {
    let history = in_memory(3 * cost(1), &Budget::new(u64::MAX));
    for (expected, data) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let records = Arc::new(vec![stored(data, Stream::Stdout)]);
        assert_eq!(history.commit(&records).await, expected as u64);
    }
    let window = history.window(0, &Stream::ALL, 1000).await.unwrap();
    assert_eq!(window.expired, range(0, 1));
    let seen: Vec<_> = (window.records.iter())
        .map(|record| (record.seq, record.data.to_vec()))
        .collect();
    assert_eq!(
        seen,
        [(2, b"c".to_vec()), (3, b"d".to_vec()), (4, b"e".to_vec())]
    );
    assert_eq!((window.next_seq, window.caught_up), (5, true));
}

#[tokio::test]
async fn a_reader_of_one_stream_goes_past_the_other() {
    let on_disk = on_disk(MIB);
    for history in [in_memory(MIB, &Budget::new(u64::MAX)), on_disk.history] {
        let records = vec![
            stored("o", Stream::Stdout),
            stored("e", Stream::Stderr),
            stored("e", Stream::Stderr),
        ];
        history.commit(&Arc::new(records)).await;
        let window = history.window(0, &[Stream::Stdout], 1000).await.unwrap();
        assert_eq!((window.records.len(), window.next_seq), (1, 3));
        let window = history.window(0, &Stream::ALL, 1).await.unwrap();
        assert_eq!(
            (window.records.len(), window.next_seq, window.caught_up),
            (1, 1, false)
        );
        let window = history.window(9, &Stream::ALL, 1).await.unwrap();
        assert_eq!(
            (window.records.len(), window.next_seq, window.expired),
            (0, 9, None)
        );
    }
}

#[tokio::test]
async fn what_all_share_is_bounded_and_given_back() {
    let budget = Budget::new(8 * cost(1));
    let first = in_memory(u64::MAX, &budget);
    for _ in 0..20 {
        first
            .commit(&Arc::new(vec![stored("x", Stream::Stdout)]))
            .await;
    }
    assert!(budget.is_exceeded(), "others are to be forgotten first");
    let window = first.window(0, &Stream::ALL, u64::MAX).await.unwrap();
    assert_eq!(window.records.len(), 9);
    let second = Logs::in_memory(Arc::clone(&budget)).create(AgentId::random(), 1);
    let _second = second.charged(7);
    drop(first);
    assert_eq!(budget.used(), 7);
}

#[tokio::test]
async fn memory_and_disk_are_one_sequence() {
    let kept = on_disk(64 * MIB);
    let history = &kept.history;
    let mut next = 0;
    // Batches of all sizes: what is in memory begins within one.
    for size in (0..200).map(|number| number * 7 % 101) {
        assert_eq!(history.commit(&lines(next..next + size)).await, next);
        next += size;
    }
    assert!(
        kept.first_in_memory() > 1000,
        "there is more on disk than in memory"
    );
    for from in [
        0,
        1,
        255,
        256,
        257,
        1000,
        kept.first_in_memory(),
        next - 1,
        next,
        next + 5,
    ] {
        let (records, gaps) = all(history, from).await;
        assert_eq!(
            (records, gaps),
            (numbers(from..next.max(from)), Vec::new()),
            "from {from}"
        );
    }
    // One page may come from both.
    let from = kept.first_in_memory() - 10;
    let window = history
        .window(from, &Stream::ALL, 100 * cost(40))
        .await
        .unwrap();
    assert!(window.records.len() > 50, "{}", window.records.len());
    window.records.iter().for_each(check);
    // A page is as large as was asked for, wherever it comes from.
    let window = history
        .window(0, &Stream::ALL, 5 * cost(line(0).len()))
        .await
        .unwrap();
    assert_eq!((window.records.len(), window.next_seq), (5, 5));

    history.close().await;
    assert!(
        kept.first_in_memory() > next - 100,
        "memory is given back at the end"
    );
    assert_eq!(all(history, 0).await, (numbers(0..next), Vec::new()));
}

#[tokio::test]
async fn the_oldest_segments_expire() {
    const BOUND: u64 = MIB;
    let kept = on_disk(BOUND);
    for batch in 0..300 {
        kept.history
            .commit(&lines(batch * 100..(batch + 1) * 100))
            .await;
        assert!(kept.budget.used() <= BOUND, "{}", kept.budget.used());
    }
    assert!(
        kept.budget.used() >= BOUND / 8 * 7,
        "{}",
        kept.budget.used()
    );
    let (records, gaps) = all(&kept.history, 0).await;
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(records, numbers(gaps[0].to_seq + 1..30_000));
    let window = kept.history.window(100, &Stream::ALL, 1000).await.unwrap();
    assert_eq!(window.expired, range(100, gaps[0].to_seq));
    let bytes: u64 = segments(&kept.directory())
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(bytes <= BOUND, "{bytes} on disk");
    let (budget, directory) = (Arc::clone(&kept.budget), kept.directory());
    kept.history.forget();
    assert_eq!(budget.used(), 0);
    until("the directory is removed", || !directory.exists()).await;
    assert!(all(&kept.history, 30_000).await.0.is_empty());
}

#[tokio::test]
async fn a_tiny_bound_keeps_little() {
    let kept = on_disk(1);
    for batch in 0..50 {
        kept.history
            .commit(&lines(batch * 50..(batch + 1) * 50))
            .await;
    }
    let (records, gaps) = all(&kept.history, 0).await;
    assert_eq!(gaps.len(), 1);
    assert_eq!(records, numbers(gaps[0].to_seq + 1..2500));
    assert_eq!(segments(&kept.directory()).len(), 1);
}

#[tokio::test]
async fn a_writer_lets_go_of_its_own_where_all_share_too_little() {
    const BOUND: u64 = 512 * 1024;
    let kept = on_disk_within(u64::MAX, BOUND);
    // Segments of an agent that may have everything are large.
    for batch in 0..200 {
        kept.history
            .commit(&lines(batch * 1000..(batch + 1) * 1000))
            .await;
    }
    assert!(
        kept.budget.used() <= BOUND + BOUND / 8 + 5 * MIB,
        "{}",
        kept.budget.used()
    );
    let (records, gaps) = all(&kept.history, 0).await;
    assert_eq!(gaps.len(), 1);
    assert_eq!(records, numbers(gaps[0].to_seq + 1..200_000));
}

#[tokio::test]
async fn a_host_that_was_killed_has_left_every_record() {
    let kept = on_disk(4 * MIB);
    kept.history.commit(&lines(0..9000)).await;
    kept.history.commit(&lines(9000..9003)).await;
    let (dir, agent) = kept.left_behind();
    let again = recover(dir.path(), agent, 4 * MIB);
    assert_eq!(again.next_seq(), 9003);
    assert_eq!(all(&again, 0).await, (numbers(0..9003), Vec::new()));
    // It goes on where it was.
    again.commit(&lines(9003..9500)).await;
    assert_eq!(all(&again, 8990).await, (numbers(8990..9500), Vec::new()));
    drop(again);
    // A smaller bound holds at once.
    let again = recover(dir.path(), agent, MIB / 4);
    let (records, gaps) = all(&again, 0).await;
    assert_eq!(gaps.len(), 1);
    assert_eq!(records, numbers(gaps[0].to_seq + 1..9500));
    drop(again);
    let logs = open(&dir.path().join("logs"));
    assert!(logs.recover(AgentId::random(), MIB).unwrap().is_none());
}

#[tokio::test]
async fn a_torn_end_is_cut_wherever_it_is_torn() {
    let kept = on_disk(MIB);
    kept.history.commit(&lines(0..60)).await;
    let (dir, agent) = kept.left_behind();
    let root = dir.path().join("logs");
    let path = segments(&root.join(agent.to_string())).remove(0);
    let whole = std::fs::read(&path).unwrap();
    let mut last = 60;
    for cut in (0..whole.len()).rev().step_by(3) {
        let directory = path.parent().unwrap();
        std::fs::create_dir_all(directory).unwrap();
        let mut torn = whole[..cut].to_vec();
        if cut % 2 == 0 {
            // As a file system may leave it.
            torn.resize(whole.len(), 0);
        }
        std::fs::write(&path, torn).unwrap();
        // What was added where nothing was left is a small log.
        for journal in segments(&root).iter().filter(|path| is_journal(path)) {
            std::fs::remove_file(journal).unwrap();
        }
        let again = recover(dir.path(), agent, MIB);
        let next = again.next_seq();
        assert!(next < 60 && next <= last, "{next} records of {cut} bytes");
        assert_eq!(
            all(&again, 0).await,
            (numbers(0..next), Vec::new()),
            "cut at {cut}"
        );
        again.commit(&lines(next..next + 5)).await;
        drop(again);
        let again = recover(dir.path(), agent, MIB);
        assert_eq!(
            all(&again, 0).await,
            (numbers(0..next + 5), Vec::new()),
            "cut at {cut}"
        );
        last = next;
    }
    assert_eq!(last, 0);
}

#[tokio::test]
async fn damage_is_a_range_that_is_gone() {
    let kept = on_disk(MIB);
    for batch in 0..100 {
        kept.history
            .commit(&lines(batch * 100..(batch + 1) * 100))
            .await;
    }
    kept.history.close().await;
    let (before, _) = all(&kept.history, 0).await;
    let first = before[0].start;
    let path = segments(&kept.directory()).remove(2);
    let begins: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (records, gaps) = all(&kept.history, first).await;
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let gap = gaps[0];
    assert!(
        gap.from_seq > begins && gap.to_seq > gap.from_seq,
        "{gap:?}"
    );
    assert_eq!(records, [first..gap.from_seq, gap.to_seq + 1..10_000]);

    // A file that somebody has removed.
    let path = segments(&kept.directory()).remove(4);
    std::fs::remove_file(path).unwrap();
    let (records, gaps) = all(&kept.history, first).await;
    assert_eq!((records.len(), gaps.len(), gaps[0]), (3, 2, gap));

    // After a restart it is the same.
    let kept_gaps = gaps;
    let (dir, agent) = kept.left_behind();
    let again = recover(dir.path(), agent, MIB);
    let (after, gaps) = all(&again, first).await;
    assert_eq!((after, gaps), (records, kept_gaps));
}

/// Something in the way of an agent's directory: nothing can be written.
fn obstruct(kept: &Kept) -> PathBuf {
    let directory = kept.directory();
    let aside = directory.with_extension("aside");
    if directory.exists() {
        std::fs::rename(&directory, &aside).unwrap();
    }
    std::fs::write(&directory, "in the way").unwrap();
    aside
}

fn clear(kept: &Kept, aside: &Path) {
    std::fs::remove_file(kept.directory()).unwrap();
    if aside.exists() {
        std::fs::rename(aside, kept.directory()).unwrap();
    }
}

#[tokio::test]
async fn an_agent_goes_on_without_its_disk_and_nothing_short_is_lost() {
    let kept = on_disk(16 * MIB);
    let history = &kept.history;
    history.commit(&lines(0..100)).await;
    let aside = obstruct(&kept);
    for batch in 1..10 {
        history.commit(&lines(batch * 100..(batch + 1) * 100)).await;
        assert_eq!(
            all(history, 100).await,
            (numbers(100..(batch + 1) * 100), Vec::new())
        );
    }
    assert!(history.heal_at().is_some());
    clear(&kept, &aside);
    // It heals without another record.
    until("a time to heal", || {
        history
            .heal_at()
            .is_some_and(|at| at <= tokio::time::Instant::now())
    })
    .await;
    history.heal().await;
    assert_eq!(history.heal_at(), None);
    history.commit(&lines(1000..1010)).await;
    let (dir, agent) = kept.left_behind();
    let again = recover(dir.path(), agent, 16 * MIB);
    assert_eq!(all(&again, 0).await, (numbers(0..1010), Vec::new()));
}

#[tokio::test]
async fn what_leaves_memory_unwritten_is_a_range_that_is_gone() {
    let kept = on_disk(64 * MIB);
    let history = &kept.history;
    history.commit(&lines(0..100)).await;
    let aside = obstruct(&kept);
    let mut next = 100;
    while kept.first_in_memory() < 1000 {
        history.commit(&lines(next..next + 100)).await;
        next += 100;
    }
    let lost_to = kept.first_in_memory() - 1;
    clear(&kept, &aside);
    history.close().await;
    assert_eq!(history.heal_at(), None, "the end waits for no retry");
    let expected = vec![0..100, lost_to + 1..next];
    let gap = vec![range(100, lost_to).unwrap()];
    assert_eq!(all(history, 0).await, (expected.clone(), gap.clone()));
    // One page ends before the range, and the next begins with it.
    let window = history.window(50, &Stream::ALL, MIB).await.unwrap();
    assert_eq!(
        (window.next_seq, window.expired, window.caught_up),
        (100, None, false)
    );
    let window = history
        .window(70 + 30, &[Stream::Stderr], 1000)
        .await
        .unwrap();
    assert_eq!(window.expired, range(100, lost_to));
    let (dir, agent) = kept.left_behind();
    let again = recover(dir.path(), agent, 64 * MIB);
    assert_eq!(all(&again, 0).await, (expected, gap));
}

/// So many of the lines make a small log.
const FEW: u64 = 20;

#[tokio::test]
async fn small_logs_share_a_file_and_none_is_lost() {
    const AGENTS: usize = 50;
    let kept = on_disk(MIB);
    let agents: Vec<AgentId> = (0..AGENTS).map(|_| AgentId::random()).collect();
    let histories: Vec<_> = (agents.iter())
        .map(|agent| Arc::new(kept.logs.create(*agent, MIB)))
        .collect();
    for (number, history) in histories.iter().enumerate() {
        history.commit(&lines(0..FEW)).await;
        // These two become large, at once and bit by bit.
        if number == 7 {
            history.commit(&lines(FEW..1000)).await;
        }
    }
    for batch in 1..100 {
        histories[9]
            .commit(&lines(batch * FEW..(batch + 1) * FEW))
            .await;
    }
    for history in &histories {
        history.close().await;
        history.tail().shrink(0);
    }
    histories[3].forget();
    let journal = Arc::clone(&histories[3].disk.as_ref().unwrap().shelf.journal);
    until("one is forgotten", || journal.get(agents[3]).is_none()).await;
    let files = |root: &Path| {
        segments(root)
            .iter()
            .map(|path| path.is_dir())
            .collect::<Vec<_>>()
    };
    let root = kept.root();
    assert_eq!(files(&root).iter().filter(|is_dir| **is_dir).count(), 2);
    assert_eq!(
        files(&root).len(),
        4,
        "the lock, the journal, and two directories"
    );
    let expected = |number| match number {
        7 => 1000,
        9 => 100 * FEW,
        _ => FEW,
    };
    for (number, history) in histories
        .iter()
        .enumerate()
        .filter(|(number, _)| *number != 3)
    {
        let found = all(history, 0).await;
        assert_eq!(
            found,
            (numbers(0..expected(number)), Vec::new()),
            "{number}"
        );
    }
    drop((histories, journal));
    let (dir, _) = kept.left_behind();
    for _ in 0..2 {
        // What was taken up is in the next journal too.
        let logs = open(&root);
        for (number, agent) in agents.iter().enumerate() {
            let again = logs.recover(*agent, MIB).unwrap();
            let Some(again) = again.map(Arc::new) else {
                assert_eq!(number, 3, "a log is gone");
                continue;
            };
            let found = all(&again, 0).await;
            assert_eq!(
                found,
                (numbers(0..expected(number)), Vec::new()),
                "{number}"
            );
        }
        let other = Arc::new(logs.create(AgentId::random(), MIB));
        other.commit(&lines(0..FEW)).await;
    }
    let logs = open(&root);
    assert_eq!(logs.sweep().unwrap(), AGENTS - 1 + 2);
    until("all are gone", || segments(&root).len() == 1).await;
    drop(dir);
}

#[tokio::test]
async fn the_journal_does_not_grow_with_what_is_dead() {
    let kept = on_disk(MIB);
    let record = Arc::new(vec![stored(vec![b'x'; 3000], Stream::Stdout)]);
    let size = || -> u64 {
        let files = segments(&kept.root());
        files
            .iter()
            .map(|path| path.metadata().unwrap().len())
            .sum()
    };
    kept.history.commit(&lines(0..FEW)).await;
    let mut largest = 0;
    for _ in 0..5000 {
        let history = Arc::new(kept.logs.create(AgentId::random(), MIB));
        history.commit(&record).await;
        history.forget();
        largest = largest.max(size());
    }
    assert!((8 * MIB..9 * MIB).contains(&largest), "{largest}");
    assert!(size() < largest, "15 MiB were written");
    let (dir, agent) = kept.left_behind();
    let again = recover(dir.path(), agent, MIB);
    assert_eq!(all(&again, 0).await, (numbers(0..FEW), Vec::new()));
}

#[tokio::test]
async fn a_journal_torn_anywhere_keeps_what_was_whole() {
    let kept = on_disk(MIB);
    for seq in 0..FEW {
        kept.history.commit(&lines(seq..seq + 1)).await;
    }
    let (dir, agent) = kept.left_behind();
    let root = dir.path().join("logs");
    let path = segments(&root)
        .into_iter()
        .find(|path| !path.ends_with("lock"))
        .unwrap();
    let whole = std::fs::read(&path).unwrap();
    let mut last = FEW;
    for cut in (0..whole.len()).rev() {
        let mut torn = whole[..cut].to_vec();
        torn.extend(std::iter::repeat_n(0xff, cut % 50));
        std::fs::write(&path, torn).unwrap();
        let logs = open(&root);
        let next = match logs.recover(agent, MIB).unwrap().map(Arc::new) {
            Some(again) => {
                let next = again.next_seq();
                assert_eq!(
                    all(&again, 0).await,
                    (numbers(0..next), Vec::new()),
                    "cut at {cut}"
                );
                next
            }
            None => 0,
        };
        assert!(
            next < FEW && last - next <= 1,
            "{next} after {last}, cut at {cut}"
        );
        last = next;
    }
    assert_eq!(last, 0);
}

/// A small file system, while this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount one.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "skep-test"])
            .arg(at)
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .status();
    }
}

#[tokio::test]
async fn a_full_disk_heals_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("logs");
    let Some(_disk) = SmallDisk::mount(&root) else {
        println!("case: no file system could be mounted, and none was filled");
        return;
    };
    println!("case: a file system of 512 KiB was filled");
    let logs = open(&root);
    let agent = AgentId::random();
    let history = Arc::new(logs.create(agent, 64 * MIB));
    let filler = root.join("filler");
    std::fs::write(&filler, vec![0; 300 * 1024]).unwrap();
    let mut next = 0;
    while history.heal_at().is_none() {
        history.commit(&lines(next..next + 100)).await;
        next += 100;
        assert!(next < 20_000, "the disk is never full");
    }
    // The agent goes on, and loses nothing that fits into memory.
    history.commit(&lines(next..next + 500)).await;
    next += 500;
    assert_eq!(all(&history, 0).await, (numbers(0..next), Vec::new()));
    std::fs::remove_file(filler).unwrap();
    history.close().await;
    assert_eq!(history.heal_at(), None, "it was written");
    drop((history, logs));
    let again = recover(dir.path(), agent, 64 * MIB);
    assert_eq!(all(&again, 0).await, (numbers(0..next), Vec::new()));
}

#[tokio::test]
async fn a_window_of_a_million_records_costs_little() {
    const RECORDS: u64 = 1_000_000;
    const WINDOW: u64 = 1000;
    let kept = on_disk(256 * MIB);
    for batch in 0..RECORDS / 10_000 {
        kept.history
            .commit(&lines(batch * 10_000..(batch + 1) * 10_000))
            .await;
    }
    kept.history.close().await;
    let mut times = Vec::new();
    for number in 0..100 {
        let from = number * 7919 * 1009 % (RECORDS - WINDOW);
        let start = Instant::now();
        let bytes = WINDOW * cost(line(RECORDS).len());
        let window = kept
            .history
            .window(from, &Stream::ALL, bytes)
            .await
            .unwrap();
        times.push(start.elapsed());
        assert_eq!(window.records[0].seq, from);
        assert!(
            window.records.len() as u64 >= WINDOW,
            "{}",
            window.records.len()
        );
        check(&window.records[500]);
    }
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("a window of {WINDOW} of {RECORDS} records: {median:?}, at most {longest:?}");
    // Ten times the 5 ms that it may take.
    assert!(median < Duration::from_millis(50), "{median:?}");
}

#[tokio::test]
async fn a_directory_has_one_host_and_keeps_what_is_not_the_hosts() {
    let kept = on_disk(MIB);
    kept.history.commit(&lines(0..100)).await;
    let (root, directory) = (kept.root(), kept.directory());
    let second = Logs::on_disk(&root, Budget::new(1)).unwrap_err();
    assert!(second.to_string().contains("another host"), "{second}");
    let (dir, _) = kept.left_behind();
    std::fs::create_dir(root.join("mine")).unwrap();
    let logs = open(&root);
    assert_eq!(logs.sweep().unwrap(), 1);
    until("the orphan is gone", || !directory.exists()).await;
    assert!(root.join("mine").exists());
    drop(dir);
}
