//! `agent.spawn`: from a spec to an agent that runs. Compiling and instantiating
//! are its own `starting`. Where there is no room the agent is there all the same,
//! and waits. It starts when it is written down together with the answer that
//! tells of it, and not before.

use std::sync::Arc;

use skep_protocol::op::{AgentReply, AgentSpawn, WhenFull};
use skep_protocol::spec::ComponentRef;
use skep_protocol::{AgentId, AgentSpec};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Error;
use super::admissible::{Admissible, consider};
use super::assemble::{Identity, Past, assemble};
use super::life::Life;
use crate::agent::handle::Handle;
use crate::agent::slots::{Place, Standing};
use crate::clock;
use crate::core::Core;
use crate::store::{Born, Change, Reply, Spawned};

/// An agent that has its place, and has not begun. Dropped, it leaves nothing.
pub struct Prepared {
    handle: Handle,
    born: Born,
    life: Life,
    coming: TaskTrackerToken,
}

impl Prepared {
    #[must_use]
    pub fn reply(&self) -> AgentReply {
        AgentReply {
            agent: self.handle.info(),
        }
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("agent", &self.handle.id)
            .finish_non_exhaustive()
    }
}

/// Refuses, or gives the agent that is to be [begun](begin).
pub async fn prepare(core: &Arc<Core>, body: AgentSpawn) -> Result<Prepared, Error> {
    if core.draining.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    let (admissible, born) = consider_new(core, body.spec).await?;
    // Whoever waits for all agents to end from here on waits for this one.
    let coming = core.drivers.token();
    // It may have come to that while a component was looked at.
    if core.draining.is_cancelled() {
        return Err(Error::ShuttingDown);
    }
    let applicant = admissible.applicant();
    let place = match body.when_full.unwrap_or(WhenFull::Queue) {
        WhenFull::Queue => core.slots.take_or_wait(applicant)?,
        WhenFull::Reject => Place::Now(core.slots.take(applicant)?),
    };
    let identity = Identity {
        id: AgentId::random(),
        created_ms: born.created_ms,
        past: Past::default(),
    };
    let (handle, life) = assemble(core, admissible, place, identity)?;
    Ok(Prepared {
        handle,
        born,
        life,
        coming,
    })
}

/// Writes an agent down with the answer that tells of it, and lets it begin.
pub async fn begin(core: &Core, prepared: Prepared, reply: Reply) -> Result<(), Error> {
    let Prepared {
        handle,
        born,
        life,
        coming: _coming,
    } = prepared;
    let spawned = Spawned {
        id: handle.id,
        name: handle.name.clone(),
        ticket: handle.standing.as_ref().map(Standing::ticket),
        known: handle.known(),
        born,
    };
    let spawned = Change::Spawned(Box::new(spawned), reply);
    core.store.write(spawned).await?;
    core.tally.spawned();
    launch(core, handle, life);
    Ok(())
}

/// The same as [`consider`], and what is remembered of the agent.
async fn consider_new(core: &Core, mut spec: AgentSpec) -> Result<(Admissible, Born), Error> {
    // Its bytes are kept as a component, not with each agent that is made of it.
    let component = spec.component.take();
    let mut kept = spec.clone();
    spec.component = component;
    let admissible = consider(core, spec, &[]).await?;
    kept.component = admissible.spec.info.component.map(ComponentRef::Digest);
    let born = Born {
        spec: kept,
        limits: admissible.spec.limits,
        enforced: admissible.runner.enforced(),
        created_ms: clock::now_ms(),
    };
    Ok((admissible, born))
}

/// From here on it is an agent of this host.
pub(super) fn launch(core: &Core, handle: Handle, life: Life) {
    let state = handle.state();
    core.registry.insert(handle);
    core.counts.moved(None, state);
    core.drivers.spawn(life.live());
}
