//! Small logs, in the file of all.

use super::*;
use crate::log::segment;

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
        history.add(&lines(0..FEW)).await;
        // These two become large, at once and bit by bit.
        if number == 7 {
            history.add(&lines(FEW..1000)).await;
        }
    }
    for batch in 1..100 {
        histories[9]
            .add(&lines(batch * FEW..(batch + 1) * FEW))
            .await;
    }
    for history in &histories {
        history.close(&Patience::default()).await;
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
    assert_eq!(files(&root).len(), 3, "the journal, and two directories");
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
            let again = logs.recover(*agent, MIB, 0).unwrap();
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
        other.add(&lines(0..FEW)).await;
    }
    let logs = open(&root);
    assert_eq!(logs.sweep(|_| true).unwrap(), 0);
    assert!(logs.recover(agents[0], MIB, 0).unwrap().is_some());
    assert_eq!(logs.sweep(|_| false).unwrap(), AGENTS - 1 + 2);
    until("all are gone", || segments(&root).is_empty()).await;
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
    kept.history.add(&lines(0..FEW)).await;
    let mut largest = 0;
    for _ in 0..5000 {
        let history = Arc::new(kept.logs.create(AgentId::random(), MIB));
        history.add(&record).await;
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
        kept.history.add(&lines(seq..seq + 1)).await;
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
        let next = match logs.recover(agent, MIB, 0).unwrap().map(Arc::new) {
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

#[tokio::test]
async fn a_small_log_stays_where_files_of_its_own_have_less() {
    let kept = on_disk(MIB);
    kept.history.add(&lines(0..FEW)).await;
    let directory = kept.directory();
    let (dir, agent) = kept.left_behind();
    // As far as it came before the disk was full.
    let mut bytes = Vec::new();
    segment::encode_header(0, &mut bytes);
    let first = &lines(0..1)[0];
    segment::encode(segment::owner(agent), 0, &first.entry(), &mut bytes);
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join(format!("{:020}.log", 0)), &bytes).unwrap();
    let logs = open(&dir.path().join("logs"));
    let ended = Arc::new(logs.recall(agent, MIB, FEW));
    assert_eq!(all(&ended, 0).await, (numbers(0..FEW), Vec::new()));
    let again = Arc::new(logs.recover(agent, MIB, 0).unwrap().unwrap());
    assert_eq!(all(&again, 0).await, (numbers(0..FEW), Vec::new()));
    again.add(&lines(FEW..1000)).await;
    assert_eq!(all(&again, 0).await, (numbers(0..1000), Vec::new()));
}
