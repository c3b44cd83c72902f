//! Bulk instructions, done in portions, and looks at the clock before calls.
//!
//! A guest gives its thread back at the next loop or function it enters. One
//! instruction that copies a hundred megabytes enters none: two guests that
//! copy memory they never touched before hold both their threads for a quarter
//! of a second each. So before a component is compiled, each such instruction
//! becomes a call of a function that is added to its module, and does the same
//! a portion at a time.
//!
//! A call of the host enters neither a loop nor a function of the guest: a
//! function that calls it a hundred thousand times in a row, a millisecond each,
//! would hold its thread for minutes and could not be killed. So before each
//! call that may lead there, before each portion that stays as it is, and before
//! each growth, stands an empty loop. It costs a nanosecond, and no fuel. How much
//! a growth takes is bounded by how large a table may be; a memory grows by
//! what is not touched.
//!
//! All other bytes stay as they are, so that no instruction needs to be
//! understood but the few that are replaced. What goes in was validated; what
//! comes out is validated again by the compiler.

mod function;
mod module;

use std::borrow::Cow;
use std::ops::Range;

use wasm_encoder::{ComponentSection, RawSection};
use wasmparser::{Chunk, Parser, Payload};

use self::module::Module;
use super::refusal::Refusal;

/// To be raised with each change of what comes out: code that was compiled
/// before is not used with another version.
pub(super) const VERSION: u32 = 6;

/// How deep components may lie within each other. Each level copies what it
/// contains, and takes a stack frame.
const MAX_NESTING: usize = 64;

/// The sections of a component that hold a module or another component.
const MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// The component with its bulk instructions in portions and looks before calls,
/// or as it is if it has none of either.
pub(super) fn in_portions(component: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    Ok(rewrite(component, 0)?.map_or(Cow::Borrowed(component), Cow::Owned))
}

/// The component, where anything in it changed.
fn rewrite(component: &[u8], nesting: usize) -> Result<Option<Vec<u8>>, Refusal> {
    if nesting > MAX_NESTING {
        let message = format!("its components are nested deeper than {MAX_NESTING}");
        return Err(Refusal::compiling("nesting", message));
    }
    let mut out = Vec::new();
    let mut changed = false;
    let mut parser = Parser::new(0);
    let mut rest = component;
    let malformed = |error| Refusal::malformed(&error);
    // More data is never needed: all of it is here.
    while let Chunk::Parsed { consumed, payload } = parser.parse(rest, true).map_err(malformed)? {
        rest = rest.get(consumed..).unwrap_or_default();
        let (id, range, inner) = match payload {
            Payload::Version { range, .. } => {
                out.extend_from_slice(within(component, range));
                continue;
            }
            Payload::End(_) => break,
            Payload::ModuleSection {
                unchecked_range: range,
                ..
            } => {
                let module = Module::read(within(component, range.clone()));
                let inner = module.and_then(|module| module.rewrite());
                (MODULE, range, inner.map_err(malformed)?)
            }
            Payload::ComponentSection {
                unchecked_range: range,
                ..
            } => {
                let inner = rewrite(within(component, range.clone()), nesting + 1)?;
                (COMPONENT, range, inner)
            }
            section => match section.as_section() {
                Some((id, range)) => (id, range, None),
                None => continue,
            },
        };
        let bytes = within(component, range);
        if matches!(id, MODULE | COMPONENT) {
            // The parser only told where it is.
            rest = rest.get(bytes.len()..).unwrap_or_default();
        }
        changed |= inner.is_some();
        let data = inner.as_deref().unwrap_or(bytes);
        RawSection { id, data }.append_to_component(&mut out);
    }
    Ok(changed.then_some(out))
}

/// What lies there. The parser tells only of what is within.
fn within(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

#[cfg(test)]
mod tests;
