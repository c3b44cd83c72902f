//! What is under way in streams.

use std::time::Duration;

use wasmtime_wasi::p2::StreamError;

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_at_once_write_what_the_limit_allows_and_no_more() {
    const STREAMS_OF_FILE: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::scratch(dir.path(), limits(100_000, 10, 10));
    let root = agent.root();
    let mut streams = Vec::new();
    for name in ["a", "b"] {
        let fd = agent.open(&root, name).await.unwrap();
        for _ in 0..STREAMS_OF_FILE {
            streams.push(agent.view().append_via_stream(again(&fd)).unwrap());
        }
        for _ in 0..STREAMS_OF_FILE - 1 {
            streams.push(agent.view().write_via_stream(again(&fd), 0).unwrap());
        }
    }
    let mut failed = 0;
    while failed < streams.len() {
        // All are under way before the first is waited for.
        for stream in &streams {
            match agent.output(stream).check_write() {
                Ok(0) | Err(StreamError::Closed) => {}
                Ok(permit) => {
                    let data = vec![b'x'; permit.min(3000)];
                    agent.output(stream).write(data.into()).unwrap();
                }
                Err(StreamError::LastOperationFailed(error)) => {
                    failed += 1;
                    let error = agent.table.push(error).unwrap();
                    let code = agent.view().filesystem_error_code(error).unwrap();
                    assert_eq!(code, Some(FileError::InsufficientSpace));
                }
                Err(other) => panic!("{other}"),
            }
        }
        for stream in &streams {
            agent.output(stream).ready().await;
        }
        assert!(found(dir.path()).bytes <= 100_000);
        assert_eq!(found(dir.path()), agent.held());
    }
    assert!(agent.held().bytes > 97_000);
}

#[tokio::test]
async fn a_stream_takes_what_it_permitted() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::scratch(dir.path(), Limits::default());
    let root = agent.root();
    let fd = agent.open(&root, "a").await.unwrap();
    let stream = agent.view().write_via_stream(again(&fd), 10).unwrap();
    let permit = agent.output(&stream).check_write().unwrap();
    let more = vec![0; permit + 1];
    assert!(matches!(
        agent.output(&stream).write(more.into()),
        Err(StreamError::Trap(_))
    ));
    agent
        .output(&stream)
        .write(vec![b'a'; permit].into())
        .unwrap();
    assert_eq!(agent.output(&stream).check_write().unwrap(), 0);
    let wait = agent.output(&stream).blocking_write_and_flush("end".into());
    wait.await.unwrap();
    let content = std::fs::read(dir.path().join("a")).unwrap();
    assert_eq!(content.len(), 10 + permit + 3);
    assert!(content.ends_with(b"aend"));

    let input = agent.view().read_via_stream(again(&fd), 9).unwrap();
    let first = agent.input(&input).blocking_read(3).await.unwrap();
    assert_eq!(first, &b"\0aa"[..]);
    let mut read = first.len();
    loop {
        agent.input(&input).ready().await;
        match agent.input(&input).read(usize::MAX) {
            Ok(data) => read += data.len(),
            Err(StreamError::Closed) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(read, content.len() - 9);
}

#[tokio::test]
async fn an_open_file_has_only_so_many_streams() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::scratch(dir.path(), Limits::default());
    let root = agent.root();
    let (fd, other) = (
        agent.open(&root, "a").await.unwrap(),
        agent.open(&root, "a").await.unwrap(),
    );
    let input = agent.view().read_via_stream(again(&fd), 0).unwrap();
    let _output = agent.view().write_via_stream(again(&fd), 0).unwrap();
    for _ in 2..streams::STREAMS {
        agent.view().append_via_stream(again(&fd)).unwrap();
    }
    let one_more = agent.view().append_via_stream(again(&fd));
    assert_eq!(refusal(one_more), FileError::Quota);
    let one_more = agent.view().read_via_stream(again(&fd), 0);
    assert_eq!(refusal(one_more), FileError::Quota);
    agent.view().append_via_stream(again(&other)).unwrap();
    agent.table.delete(input).unwrap().cancel().await;
    agent.view().append_via_stream(again(&fd)).unwrap();
}

#[tokio::test]
async fn a_file_is_open_as_long_as_a_stream_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::scratch(dir.path(), limits(1000, 10, 1));
    let root = agent.root();
    let fd = agent.open(&root, "a").await.unwrap();
    let stream = agent.view().write_via_stream(again(&fd), 0).unwrap();
    HostDescriptor::drop(&mut agent.view(), fd).unwrap();
    let refused = agent.open(&root, "b").await;
    assert_eq!(refusal(refused), FileError::Quota);
    let mut view = agent.view();
    view.unlink_file_at(again(&root), "a".to_owned())
        .await
        .unwrap();
    let write = agent
        .output(&stream)
        .blocking_write_and_flush("more".into());
    write.await.unwrap();
    assert_eq!(agent.held(), Amount { files: 1, bytes: 4 });
    agent.table.delete(stream).unwrap().cancel().await;
    assert_eq!(agent.held(), Amount::default());
    agent.open(&root, "b").await.unwrap();
}

/// A guest that leaves as many calls under way as it can takes one thread.
#[test]
fn many_streams_leave_the_threads_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(2)
        .enable_time()
        .build()
        .unwrap();
    threads.block_on(async {
        let mut agent = Agent::scratch(dir.path(), limits(1 << 30, 100, 64));
        let root = agent.root();
        let mut streams = Vec::new();
        for number in 0..64 {
            let fd = agent.open(&root, &number.to_string()).await.unwrap();
            streams.push(agent.view().append_via_stream(fd).unwrap());
        }
        // Its turn is taken by a call that does not end.
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let stuck = agent.files.turns.clone();
        let stuck = tokio::spawn(async move { stuck.take(move || wait.recv()).await });
        while agent.files.turns.is_free() {
            tokio::task::yield_now().await;
        }
        for stream in &streams {
            let permit = agent.output(stream).check_write().unwrap();
            agent.output(stream).write(vec![0; permit].into()).unwrap();
        }
        // Another agent works on.
        let mut other = Agent::scratch(dir.path(), Limits::default());
        let root = other.root();
        let opened = tokio::time::timeout(DEADLINE, other.open(&root, "other"));
        opened.await.expect("the threads are taken").unwrap();
        drop(release);
        stuck.await.unwrap().unwrap_err();
        for stream in &streams {
            agent.output(stream).ready().await;
        }
        assert!(agent.held().bytes >= 64 * 4096);
    });
}
