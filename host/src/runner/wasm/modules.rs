//! The core modules in a component, replaced one by one.

use std::ops::Range;

use wasm_encoder::{ComponentSection, RawSection};
use wasmparser::{Chunk, Parser, Payload};

use super::refusal::Refusal;

/// How deep components may lie within each other. Each level copies what it
/// contains, and takes a stack frame.
pub(super) const MAX_NESTING: usize = 64;

/// The sections of a component that hold a module or another component.
const MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// What becomes of a module; nothing, if it stays as it is.
pub(super) type Change<'a> = &'a dyn Fn(&[u8]) -> wasmparser::Result<Option<Vec<u8>>>;

/// The component, where any module in it changed. All else in it stays, to the byte.
///
/// # Errors
///
/// `compile_limit` where components are nested too deeply; `invalid_component` for what
/// was never validated.
pub(super) fn changed(component: &[u8], change: Change<'_>) -> Result<Option<Vec<u8>>, Refusal> {
    nested(component, change, 0)
}

fn nested(
    component: &[u8],
    change: Change<'_>,
    nesting: usize,
) -> Result<Option<Vec<u8>>, Refusal> {
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
                let inner = change(within(component, range.clone())).map_err(malformed)?;
                (MODULE, range, inner)
            }
            Payload::ComponentSection {
                unchecked_range: range,
                ..
            } => {
                let inner = nested(within(component, range.clone()), change, nesting + 1)?;
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
pub(super) fn within(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}
