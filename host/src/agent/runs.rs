//! The runs of one agent, one after the other, until it ends for good. Each is
//! the [`Driver`]'s; between two of them the agent waits, in the state `starting`,
//! and keeps its slot.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skep_protocol::Outcome;
use skep_protocol::info::{GaveUp, RestartInfo};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::between::{Between, between};
use super::driver::{Asker, Driver, Recording, RunEnd};
use super::publication::Ending;
use super::restart::{Ended, Next, Restarts};
use crate::clock;
use crate::log::Recorder;
use crate::runner::{Launch, Pipes, Runner};
use crate::stdio::{StdinReader, output, stdin};

/// What a run finds on its stdin.
#[derive(Debug)]
pub enum StdinSource {
    /// These bytes, in every run anew.
    Given(Bytes),
    /// What clients send. A run goes on with what those before it did not read.
    Open(StdinReader),
}

/// What a run before has left to do: it waits, and is told about.
#[derive(Debug, Clone)]
pub struct Again {
    pub told: RestartInfo,
    pub wait: Duration,
}

/// How an agent's time on this host is over.
#[derive(Debug)]
pub enum Over {
    /// It has ended for good.
    Ended(Ending),
    /// The host ends and the agent does not: the next one goes on with it.
    Left,
}

/// All runs of an agent.
#[derive(Debug)]
pub struct Runs {
    pub driver: Driver,
    pub restarts: Restarts,
    /// Set when the host starts no more runs: an agent that waits for one ends.
    pub no_more_runs: CancellationToken,
    pub stdin: StdinSource,
    /// Writes the output of a run down; `run` and `ended` are set anew for each.
    pub recorder: Recorder,
}

impl Runs {
    /// Runs the agent until its last run is over, and tells how that ended; or how
    /// it ended while it waited for the next. One that only the end of the host
    /// keeps from its next run is left to the host that comes after.
    ///
    /// `again` is what an agent goes on from whose last run was lost with its host.
    pub async fn run(
        mut self,
        runner: Arc<dyn Runner>,
        launch: Launch,
        again: Option<Again>,
    ) -> Over {
        if let Some(again) = again {
            let lost = Ending {
                outcome: again.told.last_outcome.clone(),
                written: None,
            };
            if let Err(over) = self.wait(again, lost).await {
                return over;
            }
        }
        loop {
            let begun = Instant::now();
            let RunEnd { ending, asked_by } = self.run_once(&*runner, launch.clone()).await;
            if !self.restarts.rule().allows_any() {
                return Over::Ended(ending);
            }
            let host_stopped_it =
                asked_by == Some(Asker::Host) && matches!(ending.outcome, Outcome::Stopped { .. });
            let next = if host_stopped_it && self.driver.store.keeps() {
                self.restarts.at_once()
            } else {
                let ended = Ended {
                    outcome: &ending.outcome,
                    asked: asked_by == Some(Asker::Client),
                    lasted: begun.elapsed(),
                };
                self.restarts.after(ended, Instant::now(), fastrand::f64())
            };
            let next = match next {
                Next::After(_) if self.no_more_runs.is_cancelled() && !self.leaves() => {
                    Next::GiveUp(GaveUp::Draining)
                }
                next => next,
            };
            let mut told = RestartInfo {
                last_outcome: ending.outcome.clone(),
                failures: self.restarts.failures(),
                next_run_ms: None,
                gave_up: None,
            };
            let publication = Arc::clone(&self.driver.publication);
            let wait = match next {
                Next::After(wait) => wait,
                Next::End | Next::GiveUp(_) => {
                    told.gave_up = match next {
                        Next::GiveUp(why) => Some(why),
                        Next::End | Next::After(_) => None,
                    };
                    publication.run_ended(told, self.failed_ms());
                    return Over::Ended(ending);
                }
            };
            if let Err(over) = self.wait(Again { told, wait }, ending).await {
                return over;
            }
        }
    }

    /// Whether the host ends, and another finds what it leaves.
    fn leaves(&self) -> bool {
        self.driver.shutdown.is_cancelled() && self.driver.store.keeps()
    }

    /// Waits for the next run; or tells what became of the agent meanwhile, after a
    /// run that went so.
    async fn wait(&mut self, again: Again, before: Ending) -> Result<(), Over> {
        let Again { mut told, wait } = again;
        told.next_run_ms = Some(clock::now_ms().saturating_add(milliseconds(wait)));
        let publication = Arc::clone(&self.driver.publication);
        publication.run_ended(told, self.failed_ms());
        let until = Instant::now() + wait;
        self.driver
            .store
            .write_if_possible(publication.progress())
            .await;
        let commands = &mut self.driver.commands;
        match between(until, &publication, commands, &self.no_more_runs).await {
            Between::Run => publication.next_run(),
            // That it waits is written down, if the disk takes anything.
            Between::NoMore if self.leaves() => return Err(Over::Left),
            Between::NoMore => {
                publication.gives_up(GaveUp::Draining);
                return Err(Over::Ended(before));
            }
            Between::Ended(outcome) => {
                let written = before.written;
                return Err(Over::Ended(Ending { outcome, written }));
            }
        }
        // A host that comes after must not give this run's number to another. If
        // it cannot be written now, the agent runs all the same.
        publication.agent.meter.is_run(self.restarts.made());
        self.driver
            .store
            .write_if_possible(publication.progress())
            .await;
        Ok(())
    }

    /// When its runs failed of late, by the calendar.
    fn failed_ms(&self) -> Vec<u64> {
        let now_ms = clock::now_ms();
        let at = |ago: Duration| now_ms.saturating_sub(milliseconds(ago));
        let failed = self.restarts.failed(Instant::now());
        failed.into_iter().map(at).collect()
    }

    async fn run_once(&mut self, runner: &dyn Runner, launch: Launch) -> RunEnd {
        let (stdout, stderr, output) = output();
        let stdin = match &self.stdin {
            StdinSource::Given(bytes) => stdin(0, bytes.clone()).1,
            StdinSource::Open(reader) => reader.clone(),
        };
        let pipes = Pipes {
            stdin,
            stdout,
            stderr,
        };
        let run = self.restarts.made();
        let meter = &self.driver.publication.agent.meter;
        meter.begin(run, output.counter());
        let unthrottle = CancellationToken::new();
        let recorder = Recorder {
            run,
            ended: unthrottle.clone(),
            ..self.recorder.clone()
        };
        let recording = Recording {
            cut: output.cut(),
            recorder: tokio::spawn(recorder.run(output)),
            unthrottle,
        };
        self.driver.run(runner, launch, pipes, recording).await
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
