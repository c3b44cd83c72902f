//! Records that were seen and are not on disk: their numbers are given to no
//! others, also after the host was killed.

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open as open_file};
use tokio_util::sync::CancellationToken;

use super::outage::{SmallDisk, clear, obstruct};
use super::*;

/// The next host's, in which all of the one before is taken up.
fn next_host(dir: &Path, agent: AgentId, seen: u64) -> (Logs, Arc<History>) {
    let logs = open(&dir.join("logs"));
    let history = logs.recover(agent, 64 * MIB, seen).unwrap().unwrap();
    logs.took_up();
    (logs, Arc::new(history))
}

#[tokio::test]
async fn a_number_that_was_seen_is_given_to_no_other_record() {
    for on_disk_before in [0, 10, 100] {
        let kept = on_disk(64 * MIB);
        kept.history.add(&lines(0..on_disk_before)).await;
        let aside = obstruct(&kept);
        let mut next = on_disk_before;
        for _ in 0..8 {
            kept.history.add(&lines(next..next + 100)).await;
            next += 100;
        }
        assert_eq!(allowance(&kept.root()), Some(1024));
        assert!(kept.logs.trouble().is_some());
        clear(&kept, &aside);
        let (dir, agent) = kept.left_behind();

        let (logs, again) = next_host(dir.path(), agent, 0);
        let begins = on_disk_before + 1024;
        assert_eq!(again.next_seq(), begins);
        let expired = |from| vec![range(from, begins - 1).unwrap()];
        let before = numbers(0..on_disk_before);
        let found = (before.clone(), expired(on_disk_before));
        assert_eq!(all(&again, 0).await, found, "before it goes on");
        assert_eq!(all(&again, next).await, (Vec::new(), expired(next)));
        assert_eq!(logs.trouble(), None);
        // A number that it goes on at is no record.
        assert_eq!(logs.has(&agent), on_disk_before > 0);
        until("none is ahead", || {
            allowance(&dir.path().join("logs")) == Some(0)
        })
        .await;
        // Killed before it has said anything, it begins at the same number.
        drop((logs, again));
        let (logs, again) = next_host(dir.path(), agent, 0);
        assert_eq!(again.next_seq(), begins);
        again.add(&lines(begins..begins + 5)).await;
        again.add(&lines(begins + 5..begins + 300)).await;
        let after = [before, numbers(begins..begins + 300)].concat();
        assert_eq!(
            all(&again, 0).await,
            (after.clone(), expired(on_disk_before))
        );
        assert_eq!(
            all(&again, next).await,
            (numbers(begins..begins + 300), expired(next))
        );
        drop((logs, again));
        // All of it was on disk: nothing more is left out.
        let (_logs, again) = next_host(dir.path(), agent, 0);
        assert_eq!(again.next_seq(), begins + 300);
        assert_eq!(all(&again, 0).await, (after, expired(on_disk_before)));
    }
}

#[tokio::test]
async fn while_the_disk_is_well_nothing_is_left_out() {
    let kept = on_disk(MIB);
    for batch in 0..50 {
        kept.history.add(&lines(batch * 20..(batch + 1) * 20)).await;
    }
    assert_eq!(kept.logs.trouble(), None);
    let (dir, agent) = kept.left_behind();
    until("the file", || {
        allowance(&dir.path().join("logs")) == Some(0)
    })
    .await;
    let (logs, again) = next_host(dir.path(), agent, 1000);
    assert_eq!(again.next_seq(), 1000);
    drop((logs, again));
    // What the store knows of, and the disk has lost, is left out.
    let (logs, again) = next_host(dir.path(), agent, 1010);
    assert_eq!(
        all(&again, 0).await,
        (numbers(0..1000), vec![range(1000, 1009).unwrap()])
    );
    drop((logs, again));
    let (_logs, again) = next_host(dir.path(), agent, 0);
    assert_eq!(again.next_seq(), 1010);
    // Of a small one, and of one that has nothing there.
    let logs = open(&dir.path().join("logs"));
    let small = AgentId::random();
    Arc::new(logs.create(small, MIB)).add(&lines(0..3)).await;
    drop(logs);
    for (agent, has) in [(small, 3), (AgentId::random(), 0)] {
        for seen in [7, 0] {
            let (_logs, again) = next_host(dir.path(), agent, seen);
            let gap = vec![range(has, 6).unwrap()];
            assert_eq!(all(&again, 0).await, (numbers(0..has), gap));
        }
    }
}

#[tokio::test]
async fn however_often_a_host_is_killed_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let agent = AgentId::random();
    let logs = open(&disk.root);
    logs.took_up();
    let mut history = Arc::new(logs.create(agent, 64 * MIB));
    let mut logs = logs;
    history.add(&lines(0..100)).await;
    until("the file", || disk.root.join("allowance").exists()).await;
    let filler = disk.root.join("filler");
    {
        use std::io::Write;
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }
    let mut ends = Vec::new();
    for _ in 0..4 {
        let mut next = history.next_seq();
        for _ in 0..30 {
            history.add(&lines(next..next + 100)).await;
            next += 100;
        }
        assert!(logs.trouble().is_some());
        ends.push(next);
        drop((history, logs));
        let (next_logs, again) = next_host(disk.dir.path(), agent, 0);
        assert!(again.next_seq() >= next, "{} of {next}", again.next_seq());
        (logs, history) = (next_logs, again);
    }
    std::fs::remove_file(filler).unwrap();
    history.close(&Patience::default()).await;
    until("all is whole", || logs.trouble().is_none()).await;
    until("none is ahead", || allowance(&disk.root) == Some(0)).await;
    let begins = history.next_seq();
    history.add(&lines(begins..begins + 10)).await;
    let (records, gaps) = all(&history, 0).await;
    assert_eq!(records.last(), Some(&(begins..begins + 10)));
    assert_eq!(records.len(), gaps.len() + 1, "{records:?} {gaps:?}");
    drop((history, logs));
    let (_logs, again) = next_host(disk.dir.path(), agent, 0);
    assert_eq!(all(&again, 0).await, (records, gaps));
}

/// A pipe in the place of a file: to open it to write hangs until it is opened to
/// be read, and nothing can be written then either.
struct Hangs(PathBuf);

impl Hangs {
    fn at(path: PathBuf) -> Self {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        Self(path)
    }
}

impl Drop for Hangs {
    fn drop(&mut self) {
        let reader = open_file(&self.0, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
        std::fs::remove_file(&self.0).unwrap();
        // Whoever has found it in this moment must not hang for ever.
        std::mem::forget(reader);
    }
}

#[tokio::test]
async fn a_disk_that_hangs_is_told_and_heals() {
    let kept = on_disk(64 * MIB);
    let hangs = Hangs::at(kept.directory().join(format!("{:020}.log", 0)));
    kept.history.add(&lines(0..1000)).await;
    assert_eq!(allowance(&kept.root()), Some(1024), "before they are seen");
    kept.history.add(&lines(1000..2000)).await;
    assert_eq!(allowance(&kept.root()), Some(2048));
    assert!(kept.logs.trouble().unwrap().contains("in memory alone"));
    assert_eq!(all(&kept.history, 0).await, (numbers(0..2000), Vec::new()));
    // Its end waits for no disk, which is written to when that is possible.
    kept.history.close(&Patience::default()).await;
    drop(hangs);
    until("all is whole", || kept.logs.trouble().is_none()).await;
    until("none is ahead", || allowance(&kept.root()) == Some(0)).await;
    let (dir, agent) = kept.left_behind();
    let (_logs, again) = next_host(dir.path(), agent, 2000);
    assert_eq!(all(&again, 0).await, (numbers(0..2000), Vec::new()));
}

#[tokio::test]
async fn nothing_is_seen_of_which_the_disk_knows_nothing() {
    for (lives, may_run_again) in [(true, false), (false, false), (false, true)] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("logs");
        let hang = Hangs::at(root.join("allowance.new"));
        let agent = AgentId::random();
        let hangs = Hangs::at(root.join(agent.to_string()).join(format!("{:020}.log", 0)));
        let logs = open(&root);
        logs.took_up();
        let history = Arc::new(logs.create(agent, 64 * MIB));
        let ended = CancellationToken::new();
        let mut adding = tokio::spawn({
            let history = Arc::clone(&history);
            let patience = if may_run_again {
                Patience::default()
            } else {
                Patience::until_ended(ended.clone())
            };
            async move {
                history.commit(&lines(0..1000), &patience).await;
                history.commit(&lines(1000..1500), &patience).await;
                history.close(&patience).await;
            }
        });
        let waits = || logs.trouble().is_some_and(|why| why.contains("waits"));
        until("an agent that waits", waits).await;
        assert!(!adding.is_finished());
        assert_eq!(history.next_seq(), 0);
        if lives {
            // It goes on when the disk does.
            drop((hang, hangs));
            adding.await.unwrap();
        } else if may_run_again {
            ended.cancel();
            let ended = tokio::time::timeout(2 * PATIENCE, &mut adding).await;
            assert!(ended.is_err());
            assert_eq!(history.next_seq(), 0);
            drop((hang, hangs));
            adding.await.unwrap();
        } else {
            // Its end is held up by nothing.
            ended.cancel();
            let ended = tokio::time::timeout(Duration::from_secs(30), adding).await;
            ended.unwrap().unwrap();
            assert!(logs.trouble().is_some());
            drop((hang, hangs));
        }
        assert_eq!(all(&history, 0).await, (numbers(0..1500), Vec::new()));
        until("all is whole", || logs.trouble().is_none()).await;
        drop((history, logs));
        let (_logs, again) = next_host(dir.path(), agent, 0);
        // What was granted may not have been taken back yet.
        assert_eq!(all(&again, 0).await.0, numbers(0..1500));
    }
}
