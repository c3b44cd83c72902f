//! Plays the making of a component's instances through, to count them: an
//! interpreter of the few steps that make something, with a bound on how many
//! it takes.

use std::collections::HashMap;
use std::rc::Rc;

use super::census::{Census, Needs};
use super::footprint;
use super::steps::{Sort, Step};

/// Steps in all, arguments included. The largest components that people ship
/// take some thousands.
const MAX_STEPS: usize = 200_000;

/// Core instances: no limit that an operator would set reaches this.
const MAX_INSTANCES: u64 = 10_000;

/// How deep components may nest.
const MAX_DEPTH: u32 = 64;

/// Named things, as instances export them and instantiations are given them.
type Named<'a, T> = Rc<HashMap<(Sort, &'a str), T>>;

#[derive(Debug, Clone)]
enum Value<'a> {
    Module(usize),
    /// A component, and the frame that it was defined in.
    Component(usize, usize),
    Instance(Named<'a, Value<'a>>),
    /// A function of the component's own.
    Function {
        in_memory: bool,
    },
    /// Something imported from outside: the linker refuses it.
    Unknown,
}

/// The index spaces of a component that is being instantiated.
#[derive(Debug, Default)]
struct Frame<'a> {
    modules: Vec<Value<'a>>,
    components: Vec<Value<'a>>,
    instances: Vec<Value<'a>>,
    functions: Vec<Value<'a>>,
    outer: Option<usize>,
}

impl<'a> Frame<'a> {
    fn get(&self, sort: Sort, index: u32) -> Option<&Value<'a>> {
        let space = match sort {
            Sort::Module => &self.modules,
            Sort::Component => &self.components,
            Sort::Instance => &self.instances,
            Sort::Function => &self.functions,
        };
        space.get(index as usize)
    }

    fn push(&mut self, sort: Sort, value: Value<'a>) {
        match sort {
            Sort::Module => self.modules.push(value),
            Sort::Component => self.components.push(value),
            Sort::Instance => self.instances.push(value),
            Sort::Function => self.functions.push(value),
        }
    }
}

/// The count so far. Frames live until the end, since a component may be
/// instantiated after the one that defined it; the steps bound them.
pub(super) struct Play<'c, 'a> {
    census: &'c Census<'a>,
    frames: Vec<Frame<'a>>,
    needs: Needs,
    instance_bytes: u64,
    steps: usize,
}

impl<'c, 'a> Play<'c, 'a> {
    /// What the outermost component takes, or `None` where that is too much to
    /// count.
    pub(super) fn of(census: &'c Census<'a>) -> Option<Needs> {
        let mut play = Self {
            census,
            frames: Vec::new(),
            needs: Needs::default(),
            instance_bytes: 0,
            steps: 0,
        };
        play.component(0, None, &HashMap::new(), 0)?;
        play.needs.count_instances(play.instance_bytes);
        Some(play.needs)
    }

    fn component(
        &mut self,
        at: usize,
        outer: Option<usize>,
        args: &HashMap<(Sort, &'a str), Value<'a>>,
        depth: u32,
    ) -> Option<Named<'a, Value<'a>>> {
        if depth > MAX_DEPTH {
            return None;
        }
        let census = self.census;
        let frame = self.frames.len();
        self.frames.push(Frame {
            outer,
            ..Frame::default()
        });
        self.takes(footprint::INSTANCE);
        let mut exports = HashMap::new();
        for step in census.components.get(at)? {
            self.steps += 1;
            if self.steps > MAX_STEPS || self.needs.instances > MAX_INSTANCES {
                return None;
            }
            let (sort, value) = match step {
                Step::Module(module) => (Sort::Module, Value::Module(*module)),
                Step::Component(component) => {
                    (Sort::Component, Value::Component(*component, frame))
                }
                Step::Import(sort, name) => (
                    *sort,
                    args.get(&(*sort, *name)).cloned().unwrap_or(Value::Unknown),
                ),
                Step::Outer { sort, count, index } => {
                    let mut from = frame;
                    for _ in 0..*count {
                        from = self.frames.get(from)?.outer?;
                    }
                    (*sort, self.get(from, *sort, *index))
                }
                Step::ExportOf {
                    sort,
                    instance,
                    name,
                } => {
                    let value = match self.get(frame, Sort::Instance, *instance) {
                        Value::Instance(items) => items.get(&(*sort, *name)).cloned(),
                        _ => None,
                    };
                    (*sort, value.unwrap_or(Value::Unknown))
                }
                Step::Instantiate { component, args } => {
                    let made = match self.get(frame, Sort::Component, *component) {
                        Value::Component(at, outer) => {
                            let args = self.named(frame, args);
                            Value::Instance(self.component(at, Some(outer), &args, depth + 1)?)
                        }
                        _ => Value::Unknown,
                    };
                    (Sort::Instance, made)
                }
                Step::Bundle(items) => (
                    Sort::Instance,
                    Value::Instance(Rc::new(self.named(frame, items))),
                ),
                Step::Canonicals(count) => {
                    self.takes(u64::from(*count).saturating_mul(footprint::CANONICAL));
                    continue;
                }
                Step::InstantiateModule(module) => {
                    let module = self.get(frame, Sort::Module, *module);
                    self.module(&module);
                    continue;
                }
                Step::Lift { in_memory } => {
                    let in_memory = *in_memory;
                    (Sort::Function, Value::Function { in_memory })
                }
                Step::Lower {
                    function,
                    in_memory,
                } => {
                    // What another of its components lifted, and not the host.
                    let lifted = self.get(frame, Sort::Function, *function);
                    if let Value::Function {
                        in_memory: of_other,
                    } = lifted
                    {
                        self.needs.hands_over |= *in_memory && of_other;
                        self.needs.between += 1;
                        self.takes(footprint::INSTANCE);
                    }
                    continue;
                }
                Step::Export(sort, name, index) => {
                    let value = self.get(frame, *sort, *index);
                    exports.insert((*sort, *name), value.clone());
                    // Exporting something also gives it an index of its own.
                    (*sort, value)
                }
            };
            self.frames.get_mut(frame)?.push(sort, value);
        }
        Some(Rc::new(exports))
    }

    fn get(&self, frame: usize, sort: Sort, index: u32) -> Value<'a> {
        let value = self
            .frames
            .get(frame)
            .and_then(|frame| frame.get(sort, index));
        value.cloned().unwrap_or(Value::Unknown)
    }

    fn named(
        &mut self,
        frame: usize,
        items: &[(Sort, &'a str, u32)],
    ) -> HashMap<(Sort, &'a str), Value<'a>> {
        self.steps = self.steps.saturating_add(items.len());
        items
            .iter()
            .map(|(sort, name, index)| ((*sort, *name), self.get(frame, *sort, *index)))
            .collect()
    }

    fn takes(&mut self, bytes: u64) {
        self.instance_bytes = self.instance_bytes.saturating_add(bytes);
    }

    fn module(&mut self, module: &Value<'a>) {
        let needs = &mut self.needs;
        needs.instances += 1;
        let Value::Module(at) = module else { return };
        let Some(module) = self.census.modules.get(*at) else {
            return;
        };
        needs.memories += module.memories;
        needs.tables += module.tables;
        needs.table_elements = needs.table_elements.saturating_add(module.table_elements);
        needs.memory_bytes = needs.memory_bytes.saturating_add(module.memory_bytes);
        needs.largest_table = needs.largest_table.max(module.largest_table);
        needs.memories_per_module = needs.memories_per_module.max(module.memories);
        needs.tables_per_module = needs.tables_per_module.max(module.tables);
        self.takes(module.footprint.bytes());
    }
}
