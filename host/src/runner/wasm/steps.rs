//! What of a component makes something or names something that does: modules,
//! components, instances, and the steps between them; and its functions, since two
//! components that call each other take something too.

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind,
};

/// What is counted: the rest of a component makes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Sort {
    Module,
    Component,
    Instance,
    Function,
}

/// One step of a component, as it adds to its index spaces or makes something.
#[derive(Debug)]
pub(super) enum Step<'a> {
    Module(usize),
    Component(usize),
    Import(Sort, &'a str),
    Outer {
        sort: Sort,
        count: u32,
        index: u32,
    },
    ExportOf {
        sort: Sort,
        instance: u32,
        name: &'a str,
    },
    Instantiate {
        component: u32,
        args: Vec<(Sort, &'a str, u32)>,
    },
    Bundle(Vec<(Sort, &'a str, u32)>),
    InstantiateModule(u32),
    /// So many functions that it lifts, lowers, or is given.
    Canonicals(u32),
    /// Makes a function of one of a core instance; what it is given or gives may lie
    /// in a memory.
    Lift {
        in_memory: bool,
    },
    /// The other way round, for a core instance to call.
    Lower {
        function: u32,
        in_memory: bool,
    },
    Export(Sort, &'a str, u32),
}

pub(super) fn sort_of(kind: ComponentExternalKind) -> Option<Sort> {
    match kind {
        ComponentExternalKind::Module => Some(Sort::Module),
        ComponentExternalKind::Component => Some(Sort::Component),
        ComponentExternalKind::Instance => Some(Sort::Instance),
        ComponentExternalKind::Func => Some(Sort::Function),
        _ => None,
    }
}

pub(super) fn instantiation(instance: ComponentInstance<'_>) -> Step<'_> {
    match instance {
        ComponentInstance::Instantiate {
            component_index,
            args,
        } => {
            let args = args
                .iter()
                .filter_map(|arg| Some((sort_of(arg.kind)?, arg.name, arg.index)));
            Step::Instantiate {
                component: component_index,
                args: args.collect(),
            }
        }
        ComponentInstance::FromExports(exports) => Step::Bundle(
            exports
                .iter()
                .filter_map(|export| Some((sort_of(export.kind)?, export.name.name, export.index)))
                .collect(),
        ),
    }
}

pub(super) fn canonical<'a>(function: &CanonicalFunction) -> Option<Step<'a>> {
    let in_memory = |options: &[CanonicalOption]| {
        let memory = |option: &CanonicalOption| matches!(option, CanonicalOption::Memory(_));
        options.iter().any(memory)
    };
    match function {
        CanonicalFunction::Lift { options, .. } => Some(Step::Lift {
            in_memory: in_memory(options),
        }),
        CanonicalFunction::Lower {
            func_index,
            options,
        } => Some(Step::Lower {
            function: *func_index,
            in_memory: in_memory(options),
        }),
        _ => None,
    }
}

pub(super) fn alias_of<'a>(alias: &ComponentAlias<'a>) -> Option<Step<'a>> {
    match *alias {
        ComponentAlias::InstanceExport {
            kind,
            instance_index,
            name,
        } => Some(Step::ExportOf {
            sort: sort_of(kind)?,
            instance: instance_index,
            name,
        }),
        ComponentAlias::Outer { kind, count, index } => {
            let sort = match kind {
                ComponentOuterAliasKind::CoreModule => Sort::Module,
                ComponentOuterAliasKind::Component => Sort::Component,
                _ => return None,
            };
            Some(Step::Outer { sort, count, index })
        }
        ComponentAlias::CoreInstanceExport { .. } => None,
    }
}
