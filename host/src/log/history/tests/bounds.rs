//! What expires, and for whom.

use super::*;

#[tokio::test]
async fn what_all_share_is_bounded_and_given_back() {
    let budget = Budget::new(8 * cost(1));
    let first = in_memory(u64::MAX, &budget);
    for _ in 0..20 {
        first
            .add(&Arc::new(vec![stored("x", Stream::Stdout)]))
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
            .add(&lines(batch * 100..(batch + 1) * 100))
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
        kept.history.add(&lines(batch * 50..(batch + 1) * 50)).await;
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
            .add(&lines(batch * 1000..(batch + 1) * 1000))
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
async fn who_is_silent_lets_go_of_its_oldest_as_well() {
    let kept = on_disk(8 * MIB);
    while kept.budget.used() < 4 * MIB {
        let next = kept.history.next_seq();
        kept.history.add(&lines(next..next + 1000)).await;
    }
    let end = kept.history.next_seq();
    kept.history.let_go_beyond(2 * MIB);
    let left = kept.budget.used();
    assert!(left > MIB / 2 && left <= 2 * MIB, "{left}");
    assert_eq!(kept.history.bytes(), left);
    let (records, gaps) = all(&kept.history, 0).await;
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(records, numbers(gaps[0].to_seq + 1..end));
    until("what it let go of is removed", || {
        segments(&kept.directory()).len() as u64 <= 2
    })
    .await;
    // It goes on where it was, and what it wrote last it keeps.
    kept.history.add(&lines(end..end + 10)).await;
    kept.history.let_go_beyond(0);
    assert!(kept.budget.used() > 0);
    let (records, _) = all(&kept.history, end).await;
    assert_eq!(records, numbers(end..end + 10));
}

#[tokio::test]
async fn only_so_many_read_the_disk_at_once() {
    let kept = on_disk(8 * MIB);
    while kept.first_in_memory() == 0 {
        let next = kept.history.next_seq();
        kept.history.add(&lines(next..next + 1000)).await;
    }
    let last = kept.history.next_seq() - 1;
    let reads = &kept.history.disk.as_ref().unwrap().shelf.reads;
    let mut others: Vec<_> = std::iter::from_fn(|| reads.try_acquire().ok()).collect();
    assert_eq!(others.len(), 4);
    let mut waits = std::pin::pin!(kept.history.window(0, &Stream::ALL, 1));
    assert!(waits.as_mut().now_or_never().is_none());
    let recent = kept.history.window(last, &Stream::ALL, 1).now_or_never();
    let recent = recent.expect("it is in memory").unwrap();
    assert_eq!(recent.records[0].seq, last);
    // The next place is for the one that waits.
    others.pop();
    assert!(reads.try_acquire().is_err());
    assert_eq!(waits.await.unwrap().records[0].seq, 0);
    assert!(reads.try_acquire().is_ok());
}
