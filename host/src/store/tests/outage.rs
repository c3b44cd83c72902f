//! A disk that takes nothing for a while, or does not answer.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_is_waited_for_2_s_and_written_to_when_it_answers() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    for number in 1..4 {
        store.write(spawned(number, None)).await.unwrap();
    }
    let mut kept = Arc::into_inner(store.0.unwrap()).unwrap();
    let (work, mut waiting) = mpsc::channel(1);
    let answers = std::mem::replace(&mut kept.work, work);
    let store = Store(Some(Arc::new(kept)));
    // One takes the only place, and the others wait for it.
    for number in 1..4 {
        let begun = tokio::time::Instant::now();
        let told = store.write_what_happened(ended(number, 5));
        let told = tokio::time::timeout(LAST, told).await;
        assert!(!told.unwrap(), "it is not written");
        assert!(begun.elapsed() >= PATIENCE);
    }
    let seen = Change::Seen(id(1), Box::new(known(None, 0)));
    let told = tokio::time::timeout(LAST, store.write_if_possible(seen));
    told.await.unwrap();
    for _ in 1..4 {
        let work = waiting.recv().await.unwrap();
        answers.send(work).await.unwrap();
    }
    let (done, is_done) = oneshot::channel();
    answers.send(Work::Close(done)).await.unwrap();
    is_done.await.unwrap();
    let (store, found) = dir.open();
    let has_ended = |agent: &Comeback| matches!(agent, Comeback::Ended(_));
    assert!(found.agents.len() == 3 && found.agents.iter().all(has_ended));
    store.close().await;
}

#[tokio::test]
async fn what_is_owed_is_written_at_the_end() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    store.write(spawned(1, None)).await.unwrap();
    let other = Connection::open(dir.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..20 {
        assert!(store.write(ended(1, 5)).await.is_err());
    }
    other.execute_batch("ROLLBACK").unwrap();
    store.close().await;
    let (store, found) = dir.open();
    assert!(matches!(found.agents[..], [Comeback::Ended(_)]));
    store.close().await;
}
