//! What an instance takes of the host besides its memories and tables: room for
//! each global, for each function that may be pointed at, for each import. wasmtime
//! asks no limiter for any of it. An upper estimate, from what the module has; a test
//! compares it with what the engine says.

use wasmparser::{ElementItems, ElementKind, ExternalKind, Payload};

/// Of each instance, of a module or a component, whatever is in it.
pub(super) const INSTANCE: u64 = 1024;
/// What the engine knows of a memory or a table besides its bytes.
const MEMORY: u64 = 512;
const IMPORT: u64 = 32;
const GLOBAL: u64 = 16;
/// A function that may be pointed at.
const REFERENCE: u64 = 32;
/// An element of a passive segment, which each instance has by itself.
const ELEMENT: u64 = 16;
const SEGMENT: u64 = 32;

/// A function that a component lifts or lowers: what calls it from outside, and
/// what stands between two components that call each other.
pub(super) const CANONICAL: u64 = 256;

/// What an instance of one module takes.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    bytes: u64,
    functions: u64,
    references: u64,
}

impl Footprint {
    /// Adds what this part of the module takes.
    pub(super) fn add(&mut self, payload: &Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    import?;
                    // It may be a function, and then it was pointed at already.
                    self.functions = self.functions.saturating_add(1);
                    self.refer(1);
                    self.take(1, IMPORT);
                }
            }
            Payload::FunctionSection(section) => {
                self.functions = self.functions.saturating_add(section.count().into());
            }
            Payload::TableSection(section) => {
                self.take(section.count().into(), MEMORY);
                self.refer(section.count().into());
            }
            Payload::MemorySection(section) => self.take(section.count().into(), MEMORY),
            Payload::TagSection(section) => self.take(section.count().into(), GLOBAL),
            Payload::GlobalSection(section) => {
                self.take(section.count().into(), GLOBAL);
                self.refer(section.count().into());
            }
            Payload::ExportSection(section) => {
                for export in section.clone() {
                    let kind = export?.kind;
                    if matches!(kind, ExternalKind::Func | ExternalKind::FuncExact) {
                        self.refer(1);
                    }
                }
            }
            Payload::StartSection { .. } => self.refer(1),
            Payload::ElementSection(section) => {
                for element in section.clone() {
                    let element = element?;
                    let items = u64::from(match &element.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    });
                    self.refer(items);
                    self.take(1, SEGMENT);
                    if matches!(element.kind, ElementKind::Passive) {
                        self.take(items, ELEMENT);
                    }
                }
            }
            Payload::DataSection(section) => self.take(section.count().into(), SEGMENT),
            _ => {}
        }
        Ok(())
    }

    /// Bytes that each instance takes.
    pub(super) fn bytes(&self) -> u64 {
        let references = self.references.min(self.functions);
        INSTANCE
            .saturating_add(self.bytes)
            .saturating_add(references.saturating_mul(REFERENCE))
    }

    fn take(&mut self, count: u64, bytes: u64) {
        self.bytes = self.bytes.saturating_add(count.saturating_mul(bytes));
    }

    fn refer(&mut self, count: u64) {
        self.references = self.references.saturating_add(count);
    }
}
