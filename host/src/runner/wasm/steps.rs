//! What of a component makes something or names something that does: modules,
//! components, instances, and the steps between them.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
};

/// What is counted: the rest of a component makes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Sort {
    Module,
    Component,
    Instance,
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
    Export(Sort, &'a str, u32),
}

pub(super) fn sort_of(kind: ComponentExternalKind) -> Option<Sort> {
    match kind {
        ComponentExternalKind::Module => Some(Sort::Module),
        ComponentExternalKind::Component => Some(Sort::Component),
        ComponentExternalKind::Instance => Some(Sort::Instance),
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
