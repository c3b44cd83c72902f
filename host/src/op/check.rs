//! `component.check`: what a spawn would say, from the same function; and what is
//! known beforehand of the start.

use skep_protocol::op::{CheckReply, ComponentCheck, ComponentNeeds, ImportInfo, ImportStatus};
use skep_protocol::spec::ComponentRef;
use skep_protocol::{AgentName, AgentSpec, ErrorCode, WireError};

use super::Error;
use super::admissible::consider;
use crate::components::Component;
use crate::core::Core;
use crate::runner::Program;
use crate::runner::wasm::{Facts, Failure};

/// Imports in a reply, and bytes of the name of each: a component may have a
/// hundred thousand of 100 KB, and a payload is 10 MiB at most.
const MAX_IMPORTS: usize = 1000;
const MAX_NAME: usize = 1024;

/// `told` is how the refusal of a spawn is told on the wire.
pub async fn check(
    core: &Core,
    body: ComponentCheck,
    told: fn(&Error) -> WireError,
) -> Result<CheckReply, Error> {
    let digest = body.digest;
    let known = core.components.get(&digest);
    let mut component = known.ok_or(Error::NoComponent(digest))?;
    let spec = AgentSpec {
        component: Some(ComponentRef::Digest(digest)),
        grants: body.grants.unwrap_or_default(),
        limits: body.limits.unwrap_or_default(),
        ..AgentSpec::named(AgentName::from_lossy("checked"))
    };
    let refusal = match consider(core, spec, &[]).await {
        Ok(admissible) => {
            // It may just have been found out what it is.
            component = admissible.component.unwrap_or(component);
            never_starts(core, &component, &admissible.program).await?
        }
        Err(error) => Some(error),
    };
    let facts = &component.facts;
    Ok(CheckReply {
        kind: facts.kind.as_str().to_owned(),
        imports: imports(facts),
        runnable: refusal.is_none(),
        needs: ComponentNeeds {
            memory_bytes: facts.needs.memory_bytes,
            instances: facts.needs.least_instances(),
            tables: facts.needs.tables,
        },
        refusal: refusal.as_ref().map(told),
    })
}

/// Why no start of what is admissible succeeds.
async fn never_starts(
    core: &Core,
    component: &Component,
    program: &Program,
) -> Result<Option<Error>, Error> {
    let refusal = match (&component.facts.never_compiled, program) {
        (Some(refusal), _) => Some(refusal.clone()),
        (None, Program::Component { digest, bytes, .. }) if component.facts.untold => {
            let compiled = tokio::select! {
                compiled = core.wasm.compile(*digest, bytes) => compiled,
                () = core.shutdown.cancelled() => return Err(Error::ShuttingDown),
            };
            match compiled {
                Ok(()) => None,
                // Whether there is room is no part of the verdict.
                Err(Failure::Refused(refusal)) if refusal.code != ErrorCode::Capacity => {
                    Some(refusal)
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        (None, _) => None,
    };
    Ok(refusal.map(Error::from))
}

/// What it lacks, and then what it gets.
fn imports(facts: &Facts) -> Vec<ImportInfo> {
    let missing = facts.missing.iter();
    let lacks = |import: &String| {
        let of_import = |missing: &String| {
            let rest = missing.strip_prefix(import.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
        };
        facts.missing.iter().any(of_import)
    };
    let provided = facts.imports.iter().filter(|import| !lacks(import));
    let of = |status| {
        move |name: &String| ImportInfo {
            name: name
                .get(..name.floor_char_boundary(MAX_NAME))
                .unwrap_or_default()
                .to_owned(),
            status,
            grant: None,
        }
    };
    missing
        .map(of(ImportStatus::Unknown))
        .chain(provided.map(of(ImportStatus::Provided)))
        .take(MAX_IMPORTS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_comes_first_and_is_listed_once() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let facts = Facts {
            imports: names(&["a:b/c@1.0.0", "a:b/cd@1.0.0", "a:b/x@1.0.0"]),
            missing: names(&["a:b/c@1.0.0#f", "a:b/c@1.0.0#g", "a:b/x@1.0.0"]),
            ..Facts::default()
        };
        let seen: Vec<_> = imports(&facts)
            .into_iter()
            .map(|import| (import.name, import.status))
            .collect();
        let of = |name: &str, status| (name.to_owned(), status);
        assert_eq!(
            seen,
            [
                of("a:b/c@1.0.0#f", ImportStatus::Unknown),
                of("a:b/c@1.0.0#g", ImportStatus::Unknown),
                of("a:b/x@1.0.0", ImportStatus::Unknown),
                of("a:b/cd@1.0.0", ImportStatus::Provided),
            ]
        );
    }

    #[test]
    fn a_reply_stays_small_however_much_is_imported() {
        let long = "é".repeat(5000);
        let facts = Facts {
            imports: (0..2000).map(|n| format!("{long}{n}")).collect(),
            ..Facts::default()
        };
        let imports = imports(&facts);
        assert_eq!(imports.len(), MAX_IMPORTS);
        assert!(imports.iter().all(|import| import.name.len() <= MAX_NAME));
    }
}
