//! What others notice of agents that are never done.

use std::time::{Duration, Instant};

use skep_client::Client;
use skep_client::protocol::op::{HealthCode, HealthReason};
use skep_client::protocol::{AgentId, AgentSpec, AgentState};

use super::report::Report;
use super::{KILL, LINE_EVERY, PATIENCE};
use crate::hostile::{command, core_module};
use crate::neighbours::{Heard, Neighbours};
use crate::process::HostProcess;
use crate::wait::eventually;

const ASKS: usize = 1000;
const KILLS: usize = 50;
const HEALTH: Duration = Duration::from_millis(50);

/// Agents that are never done, and what they are called.
pub(super) struct Busy {
    pub(super) who: &'static str,
    pub(super) count: usize,
    spec: AgentSpec,
}

impl Busy {
    pub(super) fn spinning(count: usize) -> Self {
        let spec = command("(loop $l br $l) i32.const 0", "");
        let who = "spinners";
        Self { who, count, spec }
    }

    /// They write 64 KiB of newlines again and again.
    pub(super) fn printing(count: usize) -> Self {
        let newlines = vec![b'\n'; 64 * 1024];
        let write = format!(
            "(call $write (i32.const 1024) (i32.const {}))",
            newlines.len()
        );
        let spec = core_module("", &newlines, &format!("(loop $l {write} (br $l))"));
        let who = "floods of empty lines";
        Self { who, count, spec }
    }

    /// One more, once it runs.
    async fn start(&self, client: &Client) -> AgentId {
        let agent = client
            .spawn(self.spec.clone(), None)
            .await
            .expect("a spawn")
            .id;
        eventually("an agent that is busy", || async {
            let usage = client.get(agent).await.expect("an agent").usage;
            (usage.fuel_used > 0).then_some(())
        })
        .await;
        agent
    }
}

pub(super) struct Fairness {
    pub(super) honest: Heard,
    busy: Busy,
    health: Vec<Duration>,
    kills: Vec<Duration>,
    pauses: Vec<Duration>,
}

impl Fairness {
    /// Starts the busy ones and measures beside them.
    ///
    /// # Panics
    /// If an agent is refused, or one that is killed does not end.
    pub(super) async fn measure(host: &HostProcess, honest: usize, busy: Busy) -> Self {
        let client = host.client();
        let honest = Neighbours::start_every(&client, honest, LINE_EVERY).await;
        let mut running = Vec::new();
        for _ in 0..busy.count {
            running.push(busy.start(&client).await);
        }
        let mut health = Vec::with_capacity(ASKS);
        for _ in 0..ASKS {
            let start = Instant::now();
            let answer = client.health().await.expect("an answer");
            health.push(start.elapsed());
            // Events are dropped under floods, as they may be; nothing else is wrong.
            let other = |reason: &HealthReason| reason.code != HealthCode::EventsDropped;
            assert!(!answer.reasons.iter().any(other), "{answer:?}");
        }
        let mut kills = Vec::with_capacity(KILLS);
        let mut pauses = Vec::with_capacity(KILLS);
        for number in 0..KILLS.min(busy.count * 2) {
            let at = number % running.len();
            let next = busy.start(&client).await;
            if let Some(agent) = running.get_mut(at) {
                pauses.push(pause(&client, *agent).await);
                kills.push(end(&client, std::mem::replace(agent, next)).await);
            }
        }
        honest.go_on().await;
        for agent in running {
            end(&client, agent).await;
        }
        let honest = honest.heard().await;
        health.sort_unstable();
        kills.sort_unstable();
        pauses.sort_unstable();
        Self {
            honest,
            busy,
            health,
            kills,
            pauses,
        }
    }

    pub(super) fn tell(&self, report: &mut Report) {
        let at = |times: &[Duration], percent: usize| {
            let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            times.get(place).copied().unwrap_or_default()
        };
        let beside = format!("beside {} {}", self.busy.count, self.busy.who);
        report.fact(
            &format!("host.health {beside}, p50"),
            super::report::ms(at(&self.health, 50)),
        );
        report.within(
            &format!("host.health {beside}, p99"),
            at(&self.health, 99),
            HEALTH,
        );
        report.within(
            &format!("line {beside} late, at most"),
            self.honest.longest_pause.saturating_sub(LINE_EVERY),
            PATIENCE,
        );
        report.within(
            &format!("way of a line to its reader {beside}, at most"),
            self.honest.longest_way,
            PATIENCE,
        );
        for (what, times) in [("kill", &self.kills), ("pause", &self.pauses)] {
            report.fact(
                &format!("{what} {beside}, p50"),
                super::report::ms(at(times, 50)),
            );
            report.within(&format!("{what} {beside}, at most"), at(times, 100), KILL);
        }
    }
}

/// It goes on then.
async fn pause(client: &Client, agent: AgentId) -> Duration {
    let start = Instant::now();
    let paused = client.pause(agent).await.expect("a pause");
    let took = start.elapsed();
    assert_eq!(paused.state, AgentState::Paused, "{paused:?}");
    client.resume(agent).await.expect("a paused agent goes on");
    took
}

async fn end(client: &Client, agent: AgentId) -> Duration {
    let start = Instant::now();
    client.kill(agent).await.expect("a kill");
    let took = start.elapsed();
    client.forget(agent).await.expect("an agent that has ended");
    took
}
