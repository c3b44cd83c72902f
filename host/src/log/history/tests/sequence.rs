//! One sequence of numbers, wherever its records are.

use super::*;

#[tokio::test]
async fn numbers_have_no_hole_and_the_oldest_expire() {
    let history = in_memory(3 * cost(1), &Budget::new(u64::MAX));
    for (expected, data) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let records = Arc::new(vec![stored(data, Stream::Stdout)]);
        assert_eq!(history.add(&records).await, expected as u64);
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
        history.add(&Arc::new(records)).await;
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
async fn memory_and_disk_are_one_sequence() {
    let kept = on_disk(64 * MIB);
    let history = &kept.history;
    let mut next = 0;
    // Batches of all sizes: what is in memory begins within one.
    for size in (0..200).map(|number| number * 7 % 101) {
        assert_eq!(history.add(&lines(next..next + size)).await, next);
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

    history.close(&Patience::default()).await;
    assert!(
        kept.first_in_memory() > next - 100,
        "memory is given back at the end"
    );
    assert_eq!(all(history, 0).await, (numbers(0..next), Vec::new()));
}

#[tokio::test]
async fn a_window_of_a_million_records_costs_little() {
    const RECORDS: u64 = 1_000_000;
    const WINDOW: u64 = 1000;
    let kept = on_disk(256 * MIB);
    for batch in 0..RECORDS / 10_000 {
        kept.history
            .add(&lines(batch * 10_000..(batch + 1) * 10_000))
            .await;
    }
    kept.history.close(&Patience::default()).await;
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
