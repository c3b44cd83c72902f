//! What others notice of agents that spin.

use std::time::{Duration, Instant};

use skep_client::Client;
use skep_client::protocol::op::{HealthCode, HealthReason};
use skep_client::protocol::{AgentId, AgentState};

use super::report::Report;
use super::{KILL, LINE_EVERY, PATIENCE};
use crate::hostile::command;
use crate::neighbours::{Heard, Neighbours};
use crate::process::HostProcess;
use crate::wait::eventually;

const ASKS: usize = 1000;
const KILLS: usize = 50;
const HEALTH: Duration = Duration::from_millis(50);

pub(super) struct Fairness {
    pub(super) honest: Heard,
    spinners: usize,
    health: Vec<Duration>,
    kills: Vec<Duration>,
    pauses: Vec<Duration>,
}

impl Fairness {
    /// Starts the spinners and measures while they spin.
    ///
    /// # Panics
    /// If an agent is refused, or one that is killed does not end.
    pub(super) async fn measure(host: &HostProcess, honest: usize, spinners: usize) -> Self {
        let client = host.client();
        let honest = Neighbours::start_every(&client, honest, LINE_EVERY).await;
        let mut spinning = Vec::new();
        for _ in 0..spinners {
            spinning.push(spin(&client).await);
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
        for number in 0..KILLS.min(spinners * 2) {
            let at = number % spinning.len();
            let next = spin(&client).await;
            if let Some(spinner) = spinning.get_mut(at) {
                pauses.push(pause(&client, *spinner).await);
                kills.push(end(&client, std::mem::replace(spinner, next)).await);
            }
        }
        honest.go_on().await;
        for spinner in spinning {
            end(&client, spinner).await;
        }
        let honest = honest.heard().await;
        health.sort_unstable();
        kills.sort_unstable();
        pauses.sort_unstable();
        Self {
            honest,
            spinners,
            health,
            kills,
            pauses,
        }
    }

    pub(super) fn tell(&self, report: &mut Report, late: Duration) {
        let at = |times: &[Duration], percent: usize| {
            let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            times.get(place).copied().unwrap_or_default()
        };
        let spinners = self.spinners;
        report.fact(
            &format!("host.health beside {spinners} spinners, p50"),
            super::report::ms(at(&self.health, 50)),
        );
        report.within(
            &format!("host.health beside {spinners} spinners, p99"),
            at(&self.health, 99),
            HEALTH,
        );
        report.within(
            &format!("line beside {spinners} spinners late, at most"),
            late,
            PATIENCE,
        );
        for (what, times) in [("kill", &self.kills), ("pause", &self.pauses)] {
            report.fact(
                &format!("{what} beside {spinners} spinners, p50"),
                super::report::ms(at(times, 50)),
            );
            report.within(
                &format!("{what} beside {spinners} spinners, at most"),
                at(times, 100),
                KILL,
            );
        }
    }
}

async fn spin(client: &Client) -> AgentId {
    let spec = command("(loop $l br $l) i32.const 0", "");
    let agent = client.spawn(spec, None).await.expect("a spawn").id;
    eventually("a spinner that spins", || async {
        let usage = client.get(agent).await.expect("an agent").usage;
        (usage.fuel_used > 0).then_some(())
    })
    .await;
    agent
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
