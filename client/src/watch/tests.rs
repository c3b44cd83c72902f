//! Watching against a host that does what a script says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use skep_protocol::codec::{Envelope, encode, encode_error, encode_reply};
use skep_protocol::op::{AgentPage, AgentReply, HostInfo, Request};
use skep_protocol::{AgentInfo, ErrorCode, Usage, WireError};
use skep_transport::{Publisher, local};

use super::standing::of_info;
use super::*;

/// Agents on a scripted host, by id: generation and state.
#[derive(Clone)]
struct Script {
    agents: Arc<Mutex<BTreeMap<AgentId, (u64, AgentState)>>>,
    publisher: Publisher,
    /// How long each answer takes, and how many were given.
    pace: Arc<Mutex<(Duration, usize)>>,
}

impl Script {
    fn new() -> (Self, Client) {
        let (mut wire, connection) = local();
        let script = Self {
            agents: Arc::default(),
            publisher: wire.publisher,
            pace: Arc::default(),
        };
        let host = script.clone();
        tokio::spawn(async move {
            while let Some(message) = wire.inbox.recv().await {
                let payload = message.payload.unwrap();
                let takes = host.paced(|(takes, _)| *takes);
                if !takes.is_zero() {
                    tokio::time::sleep(takes).await;
                }
                host.paced(|(_, given)| *given += 1);
                message.peer.reply(host.answer(&payload));
            }
        });
        (script, Client::over(connection))
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<AgentId, (u64, AgentState)>) -> T) -> T {
        act(&mut self.agents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn paced<T>(&self, act: impl FnOnce(&mut (Duration, usize)) -> T) -> T {
        act(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn takes(&self, time: Duration) {
        self.paced(|(takes, _)| *takes = time);
    }

    /// How many answers were given.
    fn asked(&self) -> usize {
        self.paced(|(_, given)| *given)
    }

    fn answer(&self, payload: &[u8]) -> Vec<u8> {
        let envelope = Envelope::parse(payload).unwrap();
        let id = envelope.id;
        match envelope.decode().unwrap() {
            Request::HostHello(_) => encode_reply(id, &hello()).unwrap(),
            Request::AgentGet(asked) => {
                match self.with(|agents| agents.get(&asked.agent).copied()) {
                    Some(agent) => {
                        let agent = info(asked.agent, agent);
                        encode_reply(id, &AgentReply { agent }).unwrap()
                    }
                    None => {
                        let gone = WireError::new(ErrorCode::NotFound, "gone");
                        encode_error(Some(id), &gone).unwrap()
                    }
                }
            }
            Request::AgentList(asked) => {
                let agents = self.with(|agents| {
                    let page = agents
                        .iter()
                        .filter(|(id, _)| asked.after.is_none_or(|after| **id > after));
                    let wanted = |state| {
                        let states = asked.states.as_ref();
                        states.is_none_or(|states| states.contains(&state))
                    };
                    page.filter(|(_, (_, state))| wanted(*state))
                        .map(|(id, agent)| info(*id, *agent))
                        .take(2)
                        .collect::<Vec<_>>()
                });
                let next = (agents.len() == 2).then(|| agents.last().unwrap().id);
                encode_reply(id, &AgentPage { agents, next }).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    /// An agent goes on, which is told or not.
    fn step(&self, agent: AgentId, state: AgentState, told: bool) {
        let generation = self.with(|agents| {
            let generation = agents
                .get(&agent)
                .map_or(0, |(generation, _)| generation + 1);
            agents.insert(agent, (generation, state));
            generation
        });
        if told {
            self.publish(agent, generation, state);
        }
    }

    fn publish(&self, agent: AgentId, generation: u64, state: AgentState) {
        let event = of_info(&info(agent, (generation, state)));
        self.publisher
            .try_publish(Topic::Status(agent).to_string(), encode(&event).unwrap());
    }
}

fn hello() -> HostInfo {
    let value = serde_json::json!({
        "server_id": "test", "version": "0", "protocol": 1, "control": "local",
        "events": "tcp://127.0.0.1:1", "runners": [], "ceilings": {}, "defaults": {},
        "features": [],
    });
    serde_json::from_value(value).unwrap()
}

fn info(id: AgentId, (generation, state): (u64, AgentState)) -> AgentInfo {
    let value = serde_json::json!({
        "id": id, "name": "x", "runner": "wasm", "state": state, "generation": generation,
        "created_ms": 1, "spec": {}, "limits": {}, "usage": Usage::default(), "next_seq": 0,
        "enforced": {
            "memory": "enforced", "cpu": "enforced", "wall": "enforced",
            "files": "enforced", "network": "enforced", "pause": "enforced",
        },
    });
    serde_json::from_value(value).unwrap()
}

/// The next state; its generation and what it is.
async fn next(watch: &mut Watch) -> (u64, AgentState) {
    match soon(watch).await {
        Some(WatchEvent::Status(status)) => (status.generation, status.state),
        other => panic!("{other:?}"),
    }
}

async fn soon(watch: &mut Watch) -> Option<WatchEvent> {
    let next = tokio::time::timeout(Duration::from_secs(20), watch.next());
    next.await.expect("in time").unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_change_is_told_once_and_the_last_ends_it() {
    let (script, client) = Script::new();
    let agent = AgentId::random();
    script.step(agent, AgentState::Starting, true);
    let mut watch = client.watch(agent).await.unwrap();
    assert_eq!(next(&mut watch).await, (0, AgentState::Starting));
    script.step(agent, AgentState::Running, true);
    script.publish(agent, 1, AgentState::Running);
    script.publish(agent, 0, AgentState::Starting);
    assert_eq!(next(&mut watch).await, (1, AgentState::Running));
    script.step(agent, AgentState::Exited, true);
    assert_eq!(next(&mut watch).await, (2, AgentState::Exited));
    assert_eq!(soon(&mut watch).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_last_is_asked_for() {
    let (script, client) = Script::new();
    let agents = [AgentId::random(), AgentId::random()];
    for agent in agents {
        script.step(agent, AgentState::Running, false);
    }
    for mut watch in [
        client.watch_some(agents).await.unwrap(),
        client.watch_all().await.unwrap(),
    ] {
        script.with(|known| known.clear());
        for agent in agents {
            script.step(agent, AgentState::Running, false);
        }
        assert_eq!(next(&mut watch).await, (0, AgentState::Running));
        assert_eq!(next(&mut watch).await, (0, AgentState::Running));
        for agent in agents {
            script.step(agent, AgentState::Paused, false);
            script.step(agent, AgentState::Exited, false);
        }
        assert_eq!(next(&mut watch).await, (2, AgentState::Exited));
        assert_eq!(next(&mut watch).await, (2, AgentState::Exited));
    }
}

#[tokio::test(start_paused = true)]
async fn of_all_agents_those_that_had_ended_are_no_news() {
    let (script, client) = Script::new();
    for state in AgentState::ALL {
        script.step(AgentId::random(), state, false);
    }
    let mut watch = client.watch_all().await.unwrap();
    let mut told = Vec::new();
    for _ in 1..AgentState::ALL.len() {
        told.push(next(&mut watch).await.1);
    }
    told.sort();
    assert_eq!(told, AgentState::ALL[..5]);
    // Whoever comes is.
    let agent = AgentId::random();
    script.step(agent, AgentState::Running, true);
    assert_eq!(next(&mut watch).await, (0, AgentState::Running));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_the_host_no_longer_knows_is_gone() {
    let (script, client) = Script::new();
    let agent = AgentId::random();
    script.step(agent, AgentState::Running, false);
    let mut one = client.watch(agent).await.unwrap();
    let mut all = client.watch_all().await.unwrap();
    assert_eq!(next(&mut one).await, (0, AgentState::Running));
    assert_eq!(next(&mut all).await, (0, AgentState::Running));
    script.with(|agents| agents.clear());
    assert_eq!(soon(&mut one).await, Some(WatchEvent::Gone(agent)));
    assert_eq!(soon(&mut one).await, None);
    assert_eq!(soon(&mut all).await, Some(WatchEvent::Gone(agent)));
    let idle = tokio::time::timeout(Duration::from_secs(60), all.next()).await;
    assert!(idle.is_err(), "it is told once: {idle:?}");
}

#[tokio::test(start_paused = true)]
async fn one_who_gives_up_often_is_told_all_the_same() {
    const AGENTS: usize = 10;
    for all in [false, true] {
        let (script, client) = Script::new();
        let agents = [(); AGENTS].map(|()| AgentId::random());
        for agent in agents {
            script.step(agent, AgentState::Running, false);
        }
        let mut watch = match all {
            false => client.watch_some(agents).await.unwrap(),
            true => client.watch_all().await.unwrap(),
        };
        script.takes(Duration::from_millis(50));
        let before = script.asked();
        let mut told = 0;
        for _ in 0..1000 {
            let impatient = Duration::from_millis(20);
            let next = tokio::time::timeout(impatient, watch.next()).await;
            told += usize::from(next.is_ok());
            if told == AGENTS {
                break;
            }
        }
        assert_eq!(told, AGENTS, "all: {all}");
        // Two are on a page, and the last page is empty.
        let once = if all { AGENTS / 2 + 1 } else { AGENTS };
        assert_eq!(script.asked() - before, once, "all: {all}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_asks_no_more() {
    let (script, client) = Script::new();
    let agents = [AgentId::random(), AgentId::random()];
    let mut watch = client.watch_some(agents).await.unwrap();
    script.takes(Duration::from_millis(50));
    let before = script.asked();
    let next = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
    assert!(next.is_err());
    drop(watch);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(script.asked() - before, 1);
}
