use std::time::Duration;

use super::*;

fn file(dir: &tempfile::TempDir) -> Option<u64> {
    decode(&std::fs::read(dir.path().join(FILE)).ok()?)
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_number_that_was_torn_is_the_larger_of_two() {
    for (before, after) in [(0, 1024), (1024, 2048), (4096, 0), (u64::MAX, 7)] {
        let (old, new) = (encode(before), encode(after));
        assert_eq!(decode(&new), Some(after));
        for cut in 0..=new.len() {
            let mut torn = new;
            torn[cut..].copy_from_slice(&old[cut..]);
            let read = decode(&torn).unwrap();
            assert!([before, after].contains(&read), "{read} cut at {cut}");
            // Nothing is seen before the whole of it is written.
            let least = if cut == new.len() {
                after
            } else {
                before.min(after)
            };
            assert!(read >= least, "{read} cut at {cut}");
        }
    }
    for damaged in [&[][..], &[0; 24], &encode(5)[..COPY - 1]] {
        assert_eq!(decode(damaged), None, "{damaged:?}");
    }
    assert_eq!(decode(&encode(5)[..COPY]), Some(5));
}

#[tokio::test]
async fn it_doubles_while_a_log_is_ahead_and_is_0_again() {
    let dir = tempfile::tempdir().unwrap();
    let allowance = Allowance::open(&Root::open(dir.path()).unwrap()).unwrap();
    assert_eq!(allowance.left(), 0);
    allowance.took_up();
    until("a file", || file(&dir) == Some(0)).await;
    for _ in 0..3 {
        let agents = [AgentId::random(), AgentId::random()];
        for (log, agent) in agents.into_iter().enumerate() {
            allowance.enter(agent);
            allowance.enter(agent);
            for (records, says) in [(1, 1024), (1024, 1024), (1025, 2048), (100_000, 131_072)] {
                allowance.granted(records).await;
                let says = if log == 0 { says } else { 131_072 };
                assert_eq!(file(&dir), Some(says), "before anything is seen");
            }
        }
        assert!(allowance.trouble().unwrap().contains("2 of them"));
        allowance.leave(agents[0]);
        assert_eq!(file(&dir), Some(131_072));
        allowance.leave(agents[1]);
        assert_eq!(allowance.trouble(), None);
        until("nothing that is ahead", || file(&dir) == Some(0)).await;
    }
    // What is taken back meanwhile is asked for anew.
    let agent = AgentId::random();
    for _ in 0..2000 {
        allowance.enter(agent);
        allowance.granted(1).await;
        assert_eq!(file(&dir), Some(1024));
        allowance.leave(agent);
    }
}

#[tokio::test]
async fn what_a_host_has_left_stays_until_all_was_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let allowance = Allowance::open(&Root::open(dir.path()).unwrap()).unwrap();
    allowance.enter(AgentId::random());
    allowance.granted(5000).await;
    drop(allowance);
    let again = Allowance::open(&Root::open(dir.path()).unwrap()).unwrap();
    assert_eq!(again.left(), 8192);
    let agent = AgentId::random();
    again.enter(agent);
    again.leave(agent);
    again.granted(8192).await;
    assert_eq!(file(&dir), Some(8192));
    again.took_up();
    until("nothing that is ahead", || file(&dir) == Some(0)).await;
    assert_eq!(again.left(), 8192, "as it was found");
    drop(again);

    std::fs::write(dir.path().join(FILE), "neither").unwrap();
    assert_eq!(
        Allowance::open(&Root::open(dir.path()).unwrap())
            .unwrap()
            .left(),
        UNKNOWN
    );
}

#[tokio::test]
async fn hosts_that_are_killed_on_a_full_disk_do_not_double_what_each_was_granted() {
    let dir = tempfile::tempdir().unwrap();
    for host in 0..100 {
        let allowance = Allowance::open(&Root::open(dir.path()).unwrap()).unwrap();
        assert_eq!(allowance.left(), host * LEAST);
        allowance.enter(AgentId::random());
        allowance.granted(allowance.left() + 10).await;
    }
    // Once all was taken up, each begins small again.
    let allowance = Allowance::open(&Root::open(dir.path()).unwrap()).unwrap();
    allowance.took_up();
    until("nothing that is ahead", || file(&dir) == Some(0)).await;
    allowance.enter(AgentId::random());
    allowance.granted(10).await;
    assert_eq!(file(&dir), Some(LEAST));
}

#[tokio::test]
async fn nothing_is_granted_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let in_the_way = dir.path().join(FILE).with_extension("new");
    std::fs::create_dir(&in_the_way).unwrap();
    let allowance = Allowance::open(&Root::open(dir.path()).unwrap()).unwrap();
    allowance.took_up();
    allowance.enter(AgentId::random());
    {
        let mut granted = std::pin::pin!(allowance.granted(1));
        let waits = tokio::time::timeout(Duration::from_millis(50), &mut granted).await;
        assert!(waits.is_err());
        assert!(allowance.trouble().unwrap().contains("waits"));
        std::fs::remove_dir(&in_the_way).unwrap();
        tokio::time::timeout(Duration::from_secs(30), granted)
            .await
            .unwrap();
    }
    assert_eq!(file(&dir), Some(1024));
    assert!(allowance.trouble().unwrap().contains("memory alone"));
}
