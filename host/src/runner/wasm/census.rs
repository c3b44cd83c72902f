//! Counts what starting a component takes: instances, memories and tables, each
//! as often as it is made; and whether its components call each other.
//!
//! A component is a program that makes instances, and it can be written so that
//! each level doubles the one below it: sixty lines then ask for more instances
//! than there is memory in the world, and the compiler would set about it. So
//! it is played through here first, with a bound on the steps.

use wasmparser::{
    ComponentTypeRef, ElementItems, Encoding, FunctionBody, Instance, Operator, Parser, Payload,
};

use super::footprint::Footprint;
use super::limiter::{ELEMENT_BYTES, TABLE_ELEMENTS};
use super::play::Play;
use super::refusal::Refusal;
use super::steps::{self, Sort, Step};

/// The largest function body, in bytes: compiling takes more than linear time,
/// and the largest that people ship (interpreters) are some 300 KiB.
const MAX_FUNCTION: u64 = 1024 * 1024;

/// Functions of all modules. Large interpreters have some 50,000.
const MAX_FUNCTIONS: u64 = 250_000;

/// Types, imports, exports, globals and elements of all modules: of each, wasmtime
/// keeps some 100 bytes, so that 4 MB of globals were 77 MB. The largest programs
/// have some 100,000. What is kept in all is bounded when it is compiled.
const MAX_ITEMS: u64 = 250_000;

/// The least bytes of a component that an item of its types takes.
const LEAST_TYPE: usize = 4;

/// What all instances of an agent may take: they are made in one go, these within
/// some 10 ms, and nobody goes between. The largest programs take some 2 MiB.
const MAX_INSTANCE_BYTES: u64 = 8 * 1024 * 1024;

/// What is not counted of all instances of an agent: the rest of it, such as its
/// stack, isn't either. Few programs take more.
pub(super) const UNCOUNTED: u64 = 64 * 1024;

/// Targets of a `br_table`, as many as the compiler takes.
const MAX_TARGETS: u32 = 65_520;

/// What starting a component takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Needs {
    /// Core instances.
    pub instances: u64,
    /// Linear memories.
    pub memories: u64,
    /// Tables.
    pub tables: u64,
    /// Bytes of all memories and tables as they are made, and of the instances.
    pub memory_bytes: u64,
    /// The instances' part of that, where it is worth counting: a module of a million
    /// globals is 5 MB, and each instance of it is 16 MB of the host's memory.
    #[serde(default)]
    pub(super) instance_bytes: u64,
    /// Functions of one of its components that another is given: wasmtime makes an
    /// instance between them, for one or for many. No limit counts these.
    #[serde(default)]
    pub(super) between: u64,
    /// Elements that a table may grow to.
    pub(super) largest_table: u64,
    pub(super) memories_per_module: u64,
    pub(super) tables_per_module: u64,
    /// Elements of all tables as they are made.
    #[serde(default)]
    pub(super) table_elements: u64,
    /// Types, imports, exports, globals and elements, however often they are made.
    #[serde(default)]
    pub(super) items: u64,
    /// Whether one of its components calls another with what may lie in memories,
    /// such as strings and lists. Not known of what was looked at by earlier hosts.
    #[serde(default)]
    pub(super) hands_over: bool,
}

impl Needs {
    /// Adds what all instances take.
    pub(super) fn count_instances(&mut self, bytes: u64) {
        let counted = bytes.saturating_sub(UNCOUNTED);
        self.instance_bytes = counted;
        self.memory_bytes = self.memory_bytes.saturating_add(counted);
    }

    /// The least that the limit `instances` must be: each memory and table
    /// costs address space, however small it is, so that of either there may be
    /// as many as instances.
    #[must_use]
    pub fn least_instances(&self) -> u64 {
        self.instances.max(self.memories).max(self.tables)
    }
}

/// One core module.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) memories: u64,
    pub(super) tables: u64,
    pub(super) memory_bytes: u64,
    pub(super) largest_table: u64,
    pub(super) table_elements: u64,
    pub(super) footprint: Footprint,
}

/// Everything of one component that matters here.
#[derive(Debug, Default)]
pub(super) struct Census<'a> {
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    pub(super) modules: Vec<Module>,
    pub(super) components: Vec<Vec<Step<'a>>>,
    functions: usize,
    largest_function: usize,
    items: u64,
    longest_br_table: u32,
}

enum Open {
    Module(usize),
    Component(usize),
}

impl<'a> Census<'a> {
    /// Reads without validating.
    pub(super) fn take(bytes: &'a [u8]) -> wasmparser::Result<Self> {
        let mut census = Self::default();
        let mut open: Vec<Open> = Vec::new();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version { encoding, .. } => census.enter(&mut open, encoding),
                Payload::End(_) => drop(open.pop()),
                payload => match open.last() {
                    Some(Open::Module(at)) => census.of_module(*at, payload)?,
                    Some(Open::Component(at)) => census.of_component(*at, payload)?,
                    None => {}
                },
            }
        }
        Ok(census)
    }

    /// What starting it takes; only for what was validated.
    pub(super) fn needs(&self) -> Result<Needs, Refusal> {
        let needs = Play::of(self).map(|needs| Needs {
            items: self.items,
            ..needs
        });
        needs.ok_or_else(|| {
            let message = "to start it takes more instances than this host compiles";
            Refusal::compiling("instances", message)
        })
    }

    /// Refuses what would only use up its time: the compiler is not asked.
    pub(super) fn compilable(&self, needs: &Needs) -> Result<(), Refusal> {
        for (bound, what, count, most) in [
            (
                "function_bytes",
                "the size of its largest function",
                self.largest_function as u64,
                MAX_FUNCTION,
            ),
            (
                "functions",
                "the number of its functions",
                self.functions as u64,
                MAX_FUNCTIONS,
            ),
            (
                "items",
                "the number of its types, imports, exports, globals and elements",
                needs.items,
                MAX_ITEMS,
            ),
            (
                "instance_bytes",
                "the size of its instances in bytes",
                needs.instance_bytes,
                MAX_INSTANCE_BYTES,
            ),
            (
                "table_elements",
                "the number of elements of its tables",
                needs.table_elements,
                TABLE_ELEMENTS,
            ),
            (
                "br_table",
                "the number of targets of its longest br_table",
                u64::from(self.longest_br_table),
                u64::from(MAX_TARGETS),
            ),
        ] {
            if count > most {
                let message = format!("{what} is {count}, and this host runs {most} at most");
                return Err(Refusal::compiling(bound, message));
            }
        }
        Ok(())
    }

    fn enter(&mut self, open: &mut Vec<Open>, encoding: Encoding) {
        let (entered, step) = match encoding {
            Encoding::Module => {
                self.modules.push(Module::default());
                let at = self.modules.len() - 1;
                (Open::Module(at), Step::Module(at))
            }
            Encoding::Component => {
                self.components.push(Vec::new());
                let at = self.components.len() - 1;
                (Open::Component(at), Step::Component(at))
            }
        };
        if let Some(Open::Component(outer)) = open.last() {
            self.step(*outer, step);
        }
        open.push(entered);
    }

    fn step(&mut self, at: usize, step: Step<'a>) {
        if let Some(steps) = self.components.get_mut(at) {
            steps.push(step);
        }
    }

    fn of_module(&mut self, at: usize, payload: Payload<'a>) -> wasmparser::Result<()> {
        let Some(module) = self.modules.get_mut(at) else {
            return Ok(());
        };
        module.footprint.add(&payload)?;
        self.items += match &payload {
            Payload::TypeSection(section) => (section.range().len() / LEAST_TYPE) as u64,
            Payload::ImportSection(section) => section.count().into(),
            Payload::ExportSection(section) => section.count().into(),
            Payload::GlobalSection(section) => section.count().into(),
            Payload::DataSection(section) => section.count().into(),
            _ => 0,
        };
        match payload {
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory?;
                    let page = 1_u64 << memory.page_size_log2.unwrap_or(16).min(16);
                    module.memories += 1;
                    module.add(memory.initial.saturating_mul(page));
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let table = table?.ty;
                    let elements = table.initial;
                    let most = table.maximum.unwrap_or(u64::MAX).max(elements);
                    module.tables += 1;
                    module.table_elements = module.table_elements.saturating_add(elements);
                    module.largest_table = module.largest_table.max(most);
                    module.add(elements.saturating_mul(ELEMENT_BYTES));
                }
            }
            Payload::ElementSection(section) => {
                for segment in section {
                    let elements = match segment?.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    };
                    self.items += u64::from(elements.saturating_add(1));
                }
            }
            Payload::CodeSectionEntry(body) => {
                self.functions += 1;
                let bytes = body.as_bytes().len();
                self.largest_function = self.largest_function.max(bytes);
                // Each target is a byte or more.
                if (u64::from(MAX_TARGETS)..=MAX_FUNCTION).contains(&(bytes as u64)) {
                    let longest = longest_br_table(&body);
                    self.longest_br_table = self.longest_br_table.max(longest);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn of_component(&mut self, at: usize, payload: Payload<'a>) -> wasmparser::Result<()> {
        match payload {
            Payload::ComponentTypeSection(section) => {
                self.items += (section.range().len() / LEAST_TYPE) as u64;
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        self.step(at, Step::InstantiateModule(module_index));
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    let step = steps::instantiation(instance?);
                    self.step(at, step);
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                self.step(at, Step::Canonicals(section.count()));
                for function in section {
                    if let Some(step) = steps::canonical(&function?) {
                        self.step(at, step);
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    if let Some(step) = steps::alias_of(&alias?) {
                        self.step(at, step);
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import?;
                    if at == 0 {
                        self.imports.push(import.name.name.to_owned());
                    }
                    let sort = match import.ty {
                        ComponentTypeRef::Module(_) => Sort::Module,
                        ComponentTypeRef::Component(_) => Sort::Component,
                        ComponentTypeRef::Instance(_) => Sort::Instance,
                        ComponentTypeRef::Func(_) => Sort::Function,
                        _ => continue,
                    };
                    self.step(at, Step::Import(sort, import.name.name));
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    if at == 0 {
                        self.exports.push(export.name.name.to_owned());
                    }
                    if let Some(sort) = steps::sort_of(export.kind) {
                        self.step(at, Step::Export(sort, export.name.name, export.index));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// As far as the function can be read: who validates it says what is wrong.
fn longest_br_table(body: &FunctionBody<'_>) -> u32 {
    let targets = |operator| match operator {
        Ok(Operator::BrTable { targets }) => targets.len(),
        _ => 0,
    };
    let operators = body.get_operators_reader().into_iter().flatten();
    operators.map(targets).max().unwrap_or(0)
}

impl Module {
    fn add(&mut self, bytes: u64) {
        self.memory_bytes = self.memory_bytes.saturating_add(bytes);
    }
}
