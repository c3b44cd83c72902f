//! Records that were published while the disk was full, under a host that was
//! killed then: nobody who follows takes others for them.

use std::path::Path;

use skep_client::protocol::event::LogRecord;
use skep_client::protocol::op::{HealthCode, SeqRange};
use skep_client::protocol::receipt::StreamHash;
use skep_client::protocol::spec::RestartPolicy;
use skep_client::protocol::{AgentId, Outcome};
use skep_client::{Client, ConnectionConfig, Endpoint, FollowOptions, LogItem};
use skep_tests::{HostProcess, eventually, probe, soon};

use crate::disk::Disk;
use crate::supervision::{again, with};
use crate::written;

const LINE_EVERY_MS: &str = "5";

/// How many records may be ahead of the disk.
fn allowance(state: &Path) -> u64 {
    let bytes = std::fs::read(state.join("logs").join("allowance")).expect("a file");
    u64::from_le_bytes(*bytes.first_chunk().expect("a number"))
}

/// Follows an agent to its end: its records, and what it was told is missing.
async fn follow(control: Endpoint, agent: AgentId) -> (Vec<LogRecord>, Vec<SeqRange>) {
    let client = Client::connect(ConnectionConfig::new(control));
    let mut log = client.follow(agent, FollowOptions::default());
    let (mut records, mut gaps) = (Vec::<LogRecord>::new(), Vec::new());
    let mut next = 0;
    loop {
        match soon("a record, or the end", log.next())
            .await
            .expect("a log")
        {
            Some(LogItem::Record(record)) => {
                assert_eq!(record.seq, next, "once and in order");
                next += 1;
                records.push(record);
            }
            Some(LogItem::Gap(gap)) => {
                assert_eq!(gap.from_seq, next, "once and in order");
                next = gap.to_seq + 1;
                gaps.push(gap);
            }
            None => return (records, gaps),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_beyond_a_full_disk_is_one_gap() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    host.kill_9();
    let state = host.state_dir();
    let Some(disk) = Disk::mount(&state, 16 * 1024 * 1024) else {
        return;
    };
    host.start_again().await;
    let spec = with(
        probe(&["tick", "1000000000", LINE_EVERY_MS, "line"]),
        again(RestartPolicy::OnFailure, None),
    );
    let agent = client.spawn(spec, None).await.expect("a spawn").id;
    written(&client, agent, 20).await;
    let live = tokio::spawn(follow(host.control(), agent));
    assert_eq!(allowance(&state), 0);

    let filler = disk.fill();
    eventually("records that are not on disk", || async {
        (allowance(&state) > 0).then_some(())
    })
    .await;
    let before = client.get(agent).await.expect("an agent").next_seq;
    written(&client, agent, before + 50).await;
    let health = client.health().await.expect("an answer");
    let told = |reason: &skep_client::protocol::op::HealthReason| {
        reason.code == HealthCode::Storage && reason.message.contains("what agents print")
    };
    assert!(health.reasons.iter().any(told), "{health:?}");
    let published = client.get(agent).await.expect("an agent").next_seq;
    host.kill_9();
    std::fs::remove_file(&filler).expect("the filler");
    host.start_again().await;

    let again = eventually("its next run", || async {
        let info = client.get(agent).await.expect("an agent");
        (info.usage.restarts == 1 && info.started_ms.is_some()).then_some(info)
    })
    .await;
    written(&client, agent, again.next_seq + 20).await;
    eventually("a host that is well", || async {
        let well = client.health().await.expect("an answer").healthy;
        (well && allowance(&state) == 0).then_some(())
    })
    .await;
    // Killed now, it loses nothing more.
    host.kill_9();
    host.start_again().await;
    let again = eventually("its third run", || async {
        let info = client.get(agent).await.expect("an agent");
        (info.usage.restarts == 2).then_some(info)
    })
    .await;
    written(&client, agent, again.next_seq + 20).await;
    client.kill(agent).await.expect("a kill");

    let (seen, seen_gaps) = live.await.expect("who followed all the while");
    let (kept, kept_gaps) = follow(host.control(), agent).await;
    let [gap] = kept_gaps[..] else {
        panic!("{kept_gaps:?}");
    };
    assert!(
        gap.from_seq < published && gap.to_seq >= published - 1,
        "{gap:?}, {published}"
    );
    assert!(seen_gaps.len() <= 1, "{seen_gaps:?}");
    assert!(seen_gaps.iter().all(|seen| seen.to_seq == gap.to_seq));
    let known = |seq: u64| kept.iter().find(|record| record.seq == seq);
    let mut beyond = 0;
    for record in &seen {
        match known(record.seq) {
            Some(same) => assert_eq!(record, same),
            None => beyond += 1,
        }
    }
    assert!(beyond > 0, "somebody saw what is lost");
    // Each run says all of its lines, but for those in the gap.
    let mut line = (0, 0);
    for record in &seen {
        line = if record.run == line.0 {
            (line.0, line.1 + 1)
        } else {
            (record.run, 1)
        };
        let said = format!("line {}", line.1);
        assert_eq!(record.data, said.as_bytes(), "{} of {}", record.seq, line.0);
    }
    // What the last run wrote is there as its receipt says.
    let info = client.get(agent).await.expect("an agent");
    assert_eq!(info.outcome, Some(Outcome::Killed));
    let mut hash = StreamHash::default();
    for record in kept.iter().filter(|record| record.run == 2) {
        hash.update(&record.data);
        hash.update(if record.partial { b"" } else { b"\n" });
    }
    let receipt = info.receipt.expect("a receipt");
    assert_eq!(receipt.stdout, hash.finish());
    assert_eq!(host.panics(), Vec::<String>::new());
}
