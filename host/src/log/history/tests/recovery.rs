//! What a host finds of one that is gone.

use super::*;

#[tokio::test]
async fn a_host_that_was_killed_has_left_every_record() {
    let kept = on_disk(4 * MIB);
    kept.history.add(&lines(0..9000)).await;
    kept.history.add(&lines(9000..9003)).await;
    let (dir, agent) = kept.left_behind();
    let again = recover(dir.path(), agent, 4 * MIB);
    assert_eq!(again.next_seq(), 9003);
    assert_eq!(all(&again, 0).await, (numbers(0..9003), Vec::new()));
    // It goes on where it was.
    again.add(&lines(9003..9500)).await;
    assert_eq!(all(&again, 8990).await, (numbers(8990..9500), Vec::new()));
    drop(again);
    // A smaller bound holds at once.
    let again = recover(dir.path(), agent, MIB / 4);
    let (records, gaps) = all(&again, 0).await;
    assert_eq!(gaps.len(), 1);
    assert_eq!(records, numbers(gaps[0].to_seq + 1..9500));
    drop(again);
    let logs = open(&dir.path().join("logs"));
    assert!(logs.recover(AgentId::random(), MIB, 0).unwrap().is_none());
}

#[tokio::test]
async fn a_torn_end_is_cut_wherever_it_is_torn() {
    let kept = on_disk(MIB);
    kept.history.add(&lines(0..60)).await;
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
        again.add(&lines(next..next + 5)).await;
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
            .add(&lines(batch * 100..(batch + 1) * 100))
            .await;
    }
    kept.history.close(&Patience::default()).await;
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

    // After a restart it is the same, for one that has ended as for one that goes on.
    let (root, kept_gaps) = (kept.root(), gaps);
    let (dir, agent) = kept.left_behind();
    let ended = Arc::new(open(&root).recall(agent, MIB, 10_000));
    assert_eq!(
        all(&ended, first).await,
        (records.clone(), kept_gaps.clone())
    );
    let again = recover(dir.path(), agent, MIB);
    let (after, gaps) = all(&again, first).await;
    assert_eq!((after, gaps), (records, kept_gaps));
}

#[tokio::test]
async fn a_directory_keeps_what_is_known_and_what_is_not_the_hosts() {
    let kept = on_disk(MIB);
    kept.history.add(&lines(0..100)).await;
    let (root, directory) = (kept.root(), kept.directory());
    let (dir, agent) = kept.left_behind();
    std::fs::create_dir(root.join("mine")).unwrap();
    let logs = open(&root);
    assert_eq!(logs.sweep(|known| *known == agent).unwrap(), 0);
    assert!(directory.exists());
    assert_eq!(logs.sweep(|_| false).unwrap(), 1);
    until("the orphan is gone", || !directory.exists()).await;
    assert!(root.join("mine").exists());
    drop(dir);
}

#[tokio::test]
async fn a_log_is_looked_at_when_it_is_first_read() {
    for count in [3, 1000] {
        let kept = on_disk(MIB);
        kept.history.add(&lines(0..count)).await;
        kept.history.close(&Patience::default()).await;
        let (root, directory) = (kept.root(), kept.directory());
        let (dir, agent) = kept.left_behind();
        let budget = Budget::new(u64::MAX);
        let logs = Logs::on_disk(&root, Arc::clone(&budget)).unwrap();
        let again = Arc::new(logs.recall(agent, MIB, count));
        assert_eq!(again.next_seq(), count);
        let (first, second) = tokio::join!(all(&again, 0), all(&again, 0));
        assert_eq!(first, (numbers(0..count), Vec::new()));
        assert_eq!(first, second);
        assert_eq!(budget.used(), 0, "its bytes are counted elsewhere");
        // One of which the disk has less than it should tells that.
        let short = Arc::new(logs.recall(agent, MIB, count + 5));
        assert_eq!(all(&short, 0).await.0, numbers(0..count));
        logs.recall(agent, MIB, count).forget();
        until("the log is gone", || {
            !directory.exists() && logs.recover(agent, MIB, 0).unwrap().is_none()
        })
        .await;
        drop(dir);
    }
}

#[tokio::test]
async fn a_window_of_a_log_takes_reading_that_part_of_it() {
    let kept = on_disk(MIB);
    kept.history.add(&lines(0..9000)).await;
    kept.history.close(&Patience::default()).await;
    let root = kept.root();
    let (_dir, agent) = kept.left_behind();
    let logs = open(&root);
    let recalled = Arc::new(logs.recall(agent, MIB, 9000));
    let window = recalled.window(4500, &Stream::ALL, 1).await.unwrap();
    assert_eq!((window.records[0].seq, window.expired), (4500, None));
    let of_one = recalled.bytes();
    let window = recalled.window(4501, &Stream::ALL, 1).await.unwrap();
    assert_eq!((window.records[0].seq, window.expired), (4501, None));
    assert_eq!(recalled.bytes(), of_one, "it was looked through before");
    assert_eq!(all(&recalled, 0).await, (numbers(0..9000), Vec::new()));
    assert!(of_one > 0 && of_one <= recalled.bytes() / 4, "{of_one}");
}

#[tokio::test]
async fn a_log_that_could_not_be_read_once_is_read_when_it_can_be() {
    let kept = on_disk(MIB);
    kept.history.add(&lines(0..9000)).await;
    kept.history.close(&Patience::default()).await;
    let (root, directory) = (kept.root(), kept.directory());
    let (dir, agent) = kept.left_behind();
    let there = segments(&directory);
    let whole: Vec<_> = there
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    let budget = Budget::new(u64::MAX);
    let logs = Logs::on_disk(&root, Arc::clone(&budget)).unwrap();
    let recalled = Arc::new(logs.recall(agent, MIB, 9000));
    // Reading a directory fails, whoever reads.
    let last = there.last().unwrap();
    let last_seq: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::fs::rename(last, &elsewhere).unwrap();
    std::fs::create_dir(last).unwrap();
    for _ in 0..3 {
        let window = recalled.window(last_seq, &Stream::ALL, MIB).await;
        window.unwrap_err();
        assert_eq!(recalled.bytes(), 0);
        logs.recover(agent, MIB, 0).unwrap_err();
        assert_eq!(budget.used(), 0);
    }
    std::fs::remove_dir(last).unwrap();
    std::fs::rename(&elsewhere, last).unwrap();
    assert_eq!(all(&recalled, 0).await, (numbers(0..9000), Vec::new()));
    assert_eq!(segments(&directory), there);
    for (path, whole) in there.iter().zip(&whole) {
        assert!(std::fs::read(path).unwrap() == *whole, "{}", path.display());
    }
    let again = logs.recover(agent, MIB, 0).unwrap().unwrap();
    assert_eq!(recalled.bytes(), again.bytes());
}
