//! A disk that cannot be written, and heals.

use super::*;

/// Something in the way of an agent's directory: nothing can be written.
pub(super) fn obstruct(kept: &Kept) -> PathBuf {
    let directory = kept.directory();
    let aside = directory.with_extension("aside");
    if directory.exists() {
        std::fs::rename(&directory, &aside).unwrap();
    }
    std::fs::write(&directory, "in the way").unwrap();
    aside
}

pub(super) fn clear(kept: &Kept, aside: &Path) {
    std::fs::remove_file(kept.directory()).unwrap();
    if aside.exists() {
        std::fs::rename(aside, kept.directory()).unwrap();
    }
}

/// Waits for the time to heal, and does.
async fn heal(history: &History) {
    let is_due = || {
        let due = history.heal_at();
        due.is_some_and(|at| at <= tokio::time::Instant::now())
    };
    until("a time to heal", is_due).await;
    history.heal(&Patience::default()).await;
    assert_eq!(history.heal_at(), None);
}

#[tokio::test]
async fn an_agent_goes_on_without_its_disk_and_nothing_short_is_lost() {
    let kept = on_disk(16 * MIB);
    let history = &kept.history;
    history.add(&lines(0..100)).await;
    let aside = obstruct(&kept);
    for batch in 1..10 {
        history.add(&lines(batch * 100..(batch + 1) * 100)).await;
        assert_eq!(
            all(history, 100).await,
            (numbers(100..(batch + 1) * 100), Vec::new())
        );
    }
    assert!(history.heal_at().is_some());
    clear(&kept, &aside);
    // It heals without another record.
    heal(history).await;
    history.add(&lines(1000..1010)).await;
    until("none is ahead", || allowance(&kept.root()) == Some(0)).await;
    let (dir, agent) = kept.left_behind();
    let again = recover(dir.path(), agent, 16 * MIB);
    assert_eq!(all(&again, 0).await, (numbers(0..1010), Vec::new()));
}

#[tokio::test]
async fn an_outage_is_told_once_although_the_disk_takes_what_others_print() {
    let kept = on_disk(16 * MIB);
    let history = &kept.history;
    let writers = &history.disk.as_ref().unwrap().shelf.writers;
    let others = kept.logs.create(AgentId::random(), MIB);
    history.add(&lines(0..100)).await;
    let aside = obstruct(&kept);
    history.add(&lines(100..200)).await;
    for number in 0..10 {
        // In the journal of all.
        others.add(&lines(number..number + 1)).await;
        assert!(writers.are_failing());
    }
    clear(&kept, &aside);
    history.close(&Patience::default()).await;
    assert_eq!(history.heal_at(), None);
    until("it is told that it is over", || !writers.are_failing()).await;
}

#[tokio::test]
async fn what_leaves_memory_unwritten_is_a_range_that_is_gone() {
    let kept = on_disk(64 * MIB);
    let history = &kept.history;
    history.add(&lines(0..100)).await;
    let aside = obstruct(&kept);
    let mut next = 100;
    while kept.first_in_memory() < 1000 {
        history.add(&lines(next..next + 100)).await;
        next += 100;
    }
    let lost_to = kept.first_in_memory() - 1;
    clear(&kept, &aside);
    history.close(&Patience::default()).await;
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
    until("none is ahead", || allowance(&kept.root()) == Some(0)).await;
    let (dir, agent) = kept.left_behind();
    let again = recover(dir.path(), agent, 64 * MIB);
    assert_eq!(all(&again, 0).await, (expected, gap));
}

#[tokio::test]
async fn logs_go_on_in_the_directory_that_they_are_in() {
    let kept = on_disk(16 * MIB);
    let other = AgentId::random();
    kept.history.add(&lines(0..1000)).await;
    let (root, away) = (kept.root(), kept.dir.path().join("away"));
    std::fs::rename(&root, &away).unwrap();
    std::fs::create_dir(&root).unwrap();
    // To this segment and to new ones, and of one that had none.
    for batch in 1..50 {
        kept.history
            .add(&lines(batch * 1000..(batch + 1) * 1000))
            .await;
    }
    let second = Arc::new(kept.logs.create(other, MIB));
    second.add(&lines(0..1000)).await;
    assert_eq!(
        all(&kept.history, 0).await,
        (numbers(0..50_000), Vec::new())
    );
    assert_eq!(segments(&root), Vec::<PathBuf>::new());
    std::fs::remove_dir(&root).unwrap();
    std::fs::rename(&away, &root).unwrap();
    kept.history.add(&lines(50_000..51_000)).await;
    let (dir, agent) = kept.left_behind();
    for (agent, end) in [(agent, 51_000), (other, 1000)] {
        let again = recover(dir.path(), agent, 16 * MIB);
        assert_eq!(all(&again, 0).await, (numbers(0..end), Vec::new()));
    }
}

#[tokio::test]
async fn what_somebody_removed_is_gone_and_no_other_record_has_its_number() {
    for left_bytes in [None, Some(1000)] {
        let kept = on_disk(16 * MIB);
        let history = &kept.history;
        history.add(&lines(0..1000)).await;
        let segment = segments(&kept.directory()).remove(0);
        match left_bytes {
            None => std::fs::remove_dir_all(kept.directory()).unwrap(),
            Some(bytes) => (File::options().write(true).open(&segment))
                .and_then(|file| file.set_len(bytes))
                .unwrap(),
        }
        history.add(&lines(1000..2000)).await;
        assert!(history.heal_at().is_some());
        assert_eq!(all(history, 1000).await, (numbers(1000..2000), Vec::new()));
        heal(history).await;
        history.add(&lines(2000..3000)).await;
        until("none is ahead", || allowance(&kept.root()) == Some(0)).await;
        let (dir, agent) = kept.left_behind();
        let again = recover(dir.path(), agent, 16 * MIB);
        let (records, gaps) = all(&again, 0).await;
        assert_eq!(gaps.len(), 1, "{gaps:?}");
        let from = gaps[0].from_seq;
        assert_eq!((gaps[0].to_seq, from > 0), (999, left_bytes.is_some()));
        let before = numbers(0..from);
        assert_eq!(records, [before, numbers(1000..3000)].concat());
    }
}

/// A small file system for logs, while this lives.
pub(super) struct SmallDisk {
    /// Where the logs are.
    pub(super) root: PathBuf,
    pub(super) dir: tempfile::TempDir,
}

impl SmallDisk {
    /// None where this user may not mount one; which it was is told.
    pub(super) fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("logs");
        std::fs::create_dir(&root).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "skep-test"])
            .arg(&root)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            println!("case: a file system of 512 KiB was filled");
            Some(Self { root, dir })
        } else {
            println!("case: no file system could be mounted, and none was filled");
            None
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.root)
            .status();
    }
}

#[tokio::test]
async fn a_full_disk_heals_by_itself() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let logs = open(&disk.root);
    logs.took_up();
    let agent = AgentId::random();
    let history = Arc::new(logs.create(agent, 64 * MIB));
    let filler = disk.root.join("filler");
    std::fs::write(&filler, vec![0; 300 * 1024]).unwrap();
    let mut next = 0;
    while history.heal_at().is_none() {
        history.add(&lines(next..next + 100)).await;
        next += 100;
        assert!(next < 20_000, "the disk is never full");
    }
    // The agent goes on, and loses nothing that fits into memory.
    history.add(&lines(next..next + 500)).await;
    next += 500;
    assert_eq!(all(&history, 0).await, (numbers(0..next), Vec::new()));
    std::fs::remove_file(filler).unwrap();
    history.close(&Patience::default()).await;
    assert_eq!(history.heal_at(), None, "it was written");
    until("none is ahead", || allowance(&disk.root) == Some(0)).await;
    drop((history, logs));
    let again = recover(disk.dir.path(), agent, 64 * MIB);
    assert_eq!(all(&again, 0).await, (numbers(0..next), Vec::new()));
}
