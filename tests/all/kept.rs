//! What outlives a host: agents, their ends and logs, components, answers.

use serde_bytes::ByteBuf;
use skep_client::protocol::event::Stream;
use skep_client::protocol::{AgentId, AgentState, ErrorCode, Outcome};
use skep_client::{AgentFilter, Client};
use skep_protocol::codec::encode_request;
use skep_protocol::op::{AgentSpawn, ComponentPut};
use skep_protocol::{AgentSpec, Digest, RequestId};
use skep_tests::{HostProcess, end_of, eventually, guest, native, probe, processes_with, spec};

use crate::raw::Raw;
use crate::{ended, refused, running, written};

async fn stdout(client: &Client, agent: AgentId) -> String {
    let output = client.output(agent, None, 0, None).await.unwrap();
    assert_eq!(output.expired, None);
    let lines = output.records.iter();
    lines
        .filter(|record| record.stream == Stream::Stdout)
        .map(|record| format!("{}\n", String::from_utf8_lossy(&record.data)))
        .collect()
}

fn named(name: &str, mut spec: AgentSpec) -> AgentSpec {
    spec.name = name.parse().unwrap();
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_killed_comes_back_with_all_it_had_promised() {
    let mut host = HostProcess::start(&["--max-agents", "2", "--allow-native"]).await;
    let client = host.client();
    // Two that have ended, one of them with more than a small log.
    let small = named("small", spec("hello", &[]));
    let small = client.spawn(small, None).await.unwrap().id;
    let small = ended(&client, small).await;
    let large = client
        .spawn(probe(&["lines", "2000"]), None)
        .await
        .unwrap()
        .id;
    let large = ended(&client, large).await;
    // One whose answer was lost.
    let request = RequestId::random();
    let spawn = AgentSpawn {
        spec: named("repeated", probe(&["lines", "1"])),
        when_full: None,
    };
    let payload = encode_request(request, &spawn).unwrap();
    let first = Raw::connect(&host.control())
        .await
        .ask(payload.clone())
        .await;
    let repeated: AgentId = first.body()["agent"]["id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    ended(&client, repeated).await;
    // Two that run.
    let mark = format!("8{:09}.25", uuid::Uuid::new_v4().as_u128() % 1_000_000_000);
    let process = client
        .spawn(native(&["/bin/sleep", &mark]), None)
        .await
        .unwrap()
        .id;
    let running_one = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    running(&client, process).await;
    let seen = running(&client, running_one).await;
    written(&client, running_one, 1).await;
    // Some that wait, of a component that was deleted since.
    let mut queued = Vec::new();
    for number in 0..4 {
        let mut waiting = named(&format!("waits-{number}"), probe(&["env"]));
        waiting.env.insert("NUMBER".to_owned(), number.to_string());
        let info = client.spawn(waiting, None).await.unwrap();
        assert_eq!(info.state, AgentState::Queued);
        queued.push(info);
    }
    let component = queued[0].spec.component.unwrap();
    client.remove_component(component).await.unwrap();
    // An upload that is under way.
    let uploaded = guest("echo");
    let digest = Digest::of(&uploaded);
    let half = uploaded.len() / 2;
    let part = |offset: usize, data: &[u8]| ComponentPut {
        digest,
        size: uploaded.len() as u64,
        offset: offset as u64,
        data: ByteBuf::from(data),
    };
    let put = client
        .put_component(&part(0, &uploaded[..half]))
        .await
        .unwrap();
    assert_eq!((put.received, put.complete), (half as u64, false));

    host.kill_9();
    host.start_again().await;

    // Nothing of those that ran is left, and that is told.
    let lost = ended(&client, running_one).await;
    assert_eq!(lost.outcome, Some(Outcome::HostLost));
    assert!(lost.generation > seen.generation, "{lost:?}");
    assert_eq!((lost.created_ms, lost.next_seq), (seen.created_ms, 1));
    assert_eq!(stdout(&client, running_one).await, "ready\n");
    assert_eq!(
        ended(&client, process).await.outcome,
        Some(Outcome::HostLost)
    );
    eventually("no process of the host before", || async {
        processes_with(&mark).is_empty().then_some(())
    })
    .await;
    // Those that had ended are as they were.
    assert_eq!(client.get(small.id).await.unwrap(), small);
    assert_eq!(client.get(large.id).await.unwrap(), large);
    assert_eq!(stdout(&client, small.id).await, "Hello, world!\n");
    let all = end_of(&client, large.id).await;
    assert_eq!(all.output.stdout().lines().count(), 2000);
    let filter = AgentFilter {
        name: Some("small".parse().unwrap()),
        ..AgentFilter::default()
    };
    assert_eq!(
        client.list_all(&filter).await.unwrap(),
        std::slice::from_ref(&small)
    );
    refused(client.pause(small.id).await, ErrorCode::WrongState);
    // Those that waited run, with what they were given.
    for (number, before) in queued.iter().enumerate() {
        let after = ended(&client, before.id).await;
        assert_eq!(after.outcome, Some(Outcome::Exited { code: 0 }));
        assert_eq!(
            (&after.name, after.created_ms),
            (&before.name, before.created_ms)
        );
        let text = stdout(&client, before.id).await;
        assert!(text.contains(&format!("NUMBER={number}")), "{text}");
    }
    // The component they were made of is deleted at last.
    refused(client.stat_component(component).await, ErrorCode::NotFound);
    // The answer that was lost is given again, and nothing done.
    let again = Raw::connect(&host.control()).await.ask(payload).await;
    assert_eq!(again, first);
    // The upload goes on from where it was.
    let put = client.put_component(&part(0, &[])).await.unwrap();
    assert_eq!((put.received, put.complete), (half as u64, false));
    let put = client
        .put_component(&part(half, &uploaded[half..]))
        .await
        .unwrap();
    assert!(put.complete);
    // All are listed once, those of this host and those of the one before.
    let mut ids: Vec<_> = [small.id, large.id, repeated, running_one, process].into();
    ids.extend(queued.iter().map(|agent| agent.id));
    ids.sort_unstable();
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = client.list(&AgentFilter::default(), after).await.unwrap();
        listed.extend(page.agents.iter().map(|agent| agent.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, ids);

    // What is forgotten stays so; all else is there once more.
    client.forget(small.id).await.unwrap();
    refused(client.get(small.id).await, ErrorCode::NotFound);
    let queued_after = client.get(queued[1].id).await.unwrap();
    host.kill_9();
    host.start_again().await;
    refused(client.get(small.id).await, ErrorCode::NotFound);
    assert_eq!(client.get(large.id).await.unwrap(), large);
    assert_eq!(client.get(queued[1].id).await.unwrap(), queued_after);
    let lost_still = client.get(running_one).await.unwrap();
    assert_eq!(lost_still, lost);
    // The component that was put is there, its bytes too.
    let mut of_upload = spec("echo", &["hi"]);
    of_upload.component = Some(skep_client::protocol::spec::ComponentRef::Digest(digest));
    let echo = client.spawn(of_upload, None).await.unwrap().id;
    assert_eq!(
        ended(&client, echo).await.outcome,
        Some(Outcome::Exited { code: 0 })
    );
    assert!(host.panics().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_ended_in_order_leaves_nothing_lost() {
    let mut host = HostProcess::start(&["--grace", "1s"]).await;
    let client = host.client();
    let polite = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    running(&client, polite).await;
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
    host.start_again().await;
    let info = ended(&client, polite).await;
    assert_eq!(info.outcome, Some(Outcome::Stopped { forced: false }));
    assert_eq!(stdout(&client, polite).await, "ready\nstopping\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_bounds_hold_for_agents_of_hosts_before() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("skep.toml");
    std::fs::write(&config, "[capacity]\nmax_ended = 3\n").unwrap();
    let mut host = HostProcess::start(&["--config", config.to_str().unwrap()]).await;
    let client = host.client();
    let mut agents = Vec::new();
    for round in 0..3 {
        for _ in 0..2 {
            let agent = client
                .spawn(probe(&["lines", "100"]), None)
                .await
                .unwrap()
                .id;
            ended(&client, agent).await;
            agents.push(agent);
        }
        let kept = agents.len().min(3);
        eventually("the oldest forgotten", || async {
            let all = client.list_all(&AgentFilter::default()).await.unwrap();
            (all.len() == kept).then_some(())
        })
        .await;
        host.kill_9();
        host.start_again().await;
        for (number, agent) in agents.iter().enumerate() {
            let there = number + kept >= agents.len();
            assert_eq!(client.get(*agent).await.is_ok(), there, "{round}: {number}");
        }
        let directories = std::fs::read_dir(host.state_dir().join("logs")).unwrap();
        let of_agents = directories
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.parse::<AgentId>().is_ok());
        assert!(of_agents.count() <= agents.len());
    }
}
