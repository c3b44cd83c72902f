//! What expires, and for whom.

use super::*;

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
