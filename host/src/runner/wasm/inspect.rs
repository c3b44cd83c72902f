//! What a component is and what it needs, read from its bytes without
//! compiling anything. Costs a few milliseconds a megabyte: all of it is
//! validated, so that what is refused is refused before anything runs.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use skep_protocol::{LimitName, Limits};
use wasmparser::component_types::{
    ComponentAnyTypeId, ComponentDefinedType, ComponentEntityType, ComponentValType,
};
use wasmparser::types::Types;
use wasmparser::{Validator, WasmFeatures};

use super::adapt::{Adapted, adapt};
use super::census::{Census, Needs};
use super::engine;
use super::offer::Name;
use super::refusal::Refusal;

/// What the bytes were before they were adapted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    #[default]
    Command,
    CoreModule,
    /// Bytes that are neither, or could run nowhere.
    Blob,
}

impl Kind {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::CoreModule => "core-module",
            Self::Blob => "blob",
        }
    }
}

/// What [`Facts`] mean. Those of another edition are found out anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Edition(u32);

impl Edition {
    /// To be raised when facts change their meaning, or what is refused changes.
    pub(super) const CURRENT: Self = Self(6);

    /// Of facts that name none.
    const fn unnamed() -> Self {
        Self(0)
    }

    pub(super) const fn number(self) -> u32 {
        self.0
    }
}

impl Default for Edition {
    fn default() -> Self {
        Self::CURRENT
    }
}

/// What a component is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    #[serde(default = "Edition::unnamed")]
    pub edition: Edition,
    pub kind: Kind,
    /// The names that it imports.
    pub imports: Vec<String>,
    /// Those of them that nothing provides, with the function where the
    /// interface is there and lacks it.
    pub missing: Vec<String>,
    /// Whether it can be asked to stop.
    pub asks_control: bool,
    /// What it takes to start it.
    pub needs: Needs,
    /// Why it does not link, though nothing is missing. Found out by whoever can
    /// compile, so that [`describe`] leaves it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlinkable: Option<Refusal>,
    /// Whether only compiling it tells if it links.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untold: bool,
    /// Why it is never compiled here, where that can be counted beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_compiled: Option<Refusal>,
}

/// The most that `memory_bytes` may be for components that hand strings or lists to
/// each other. wasmtime copies or transcodes what is handed over in one call, which
/// nothing interrupts and no rewriting reaches, as it makes that code itself; it may
/// be half of all their memory. Of 4 GiB that takes two seconds, in which nobody else goes
/// on and no kill comes through; of these, some 30 ms.
const HANDED_OVER: u64 = 64 * 1024 * 1024;

impl Facts {
    /// Of what is no component.
    #[must_use]
    pub fn of_blob() -> Self {
        Self {
            kind: Kind::Blob,
            ..Self::default()
        }
    }

    /// Whether this host would find out the same.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.edition == Edition::CURRENT
    }

    /// Refuses what could not even start: for want of an import, or with these
    /// limits.
    ///
    /// # Errors
    ///
    /// `missing_import`; `invalid_component`, where it does not link; `limit_too_small`,
    /// with the limit and what is needed;
    /// `limit_exceeds_ceiling`, with the most that such a component may have.
    pub fn admits(&self, limits: &Limits) -> Result<(), Refusal> {
        if !self.missing.is_empty() {
            return Err(Refusal::missing(self.missing.clone()));
        }
        if let Some(refusal) = &self.unlinkable {
            return Err(refusal.clone());
        }
        let needs = &self.needs;
        let instances = needs.least_instances();
        if instances > limits.instances {
            return Err(Refusal::too_small(
                LimitName::Instances,
                limits.instances,
                instances,
            ));
        }
        if needs.memory_bytes > limits.memory_bytes {
            return Err(Refusal::too_small(
                LimitName::MemoryBytes,
                limits.memory_bytes,
                needs.memory_bytes,
            ));
        }
        if needs.hands_over && limits.memory_bytes > HANDED_OVER {
            return Err(Refusal::too_large(
                LimitName::MemoryBytes,
                limits.memory_bytes,
                HANDED_OVER,
                "components that hand strings or lists to each other",
            ));
        }
        Ok(())
    }
}

/// Tells what a component or core module is, and refuses what could not run
/// anywhere.
///
/// # Errors
///
/// `invalid_component`, `unsupported_world`, `unsupported_feature`, or
/// `compile_limit` where it cannot even be counted; `missing_import` only for
/// core modules.
pub fn describe(bytes: &[u8]) -> Result<Facts, Refusal> {
    read(bytes).map(|read| read.facts)
}

/// The facts, and the component to compile.
///
/// # Errors
///
/// As [`describe`], and with `missing_import` or `compile_limit` if it cannot
/// run here.
pub(super) fn examine(bytes: &[u8]) -> Result<(Facts, Cow<'_, [u8]>), Refusal> {
    let read = read(bytes)?;
    if !read.facts.missing.is_empty() {
        return Err(Refusal::missing(read.facts.missing));
    }
    if let Some(refusal) = read.facts.never_compiled {
        return Err(refusal);
    }
    Ok((read.facts, read.component))
}

/// Everything that was read of a component.
struct Read<'a> {
    facts: Facts,
    component: Cow<'a, [u8]>,
}

fn read(bytes: &[u8]) -> Result<Read<'_>, Refusal> {
    let Adapted {
        component,
        core_imports,
    } = adapt(bytes)?;
    let census = Census::take(&component).map_err(|error| Refusal::malformed(&error))?;
    let names = || {
        census
            .imports
            .iter()
            .chain(&census.exports)
            .map(|name| Name::of(name))
    };
    // Before the validation, whose complaint about async would be no help.
    if let Some(name) = names().find(|name| name.is_wasi_0_3()) {
        return Err(Refusal::world(name.world()));
    }
    let types = validate(&component)?;
    let programs = census.exports.iter().filter(|name| runs(Name::of(name)));
    let programs: Vec<bool> = programs.map(|name| is_program(&types, name)).collect();
    if programs.is_empty() {
        return Err(Refusal::invalid(
            "it exports no wasi:cli/run@0.2: build it as a program (a `main`, or the world \
             wasi:cli/command), not as a library or for another world",
        ));
    }
    if programs.contains(&false) {
        return Err(Refusal::invalid(
            "its wasi:cli/run is of another type than that of WASI 0.2, an instance with \
             `run: func() -> result`",
        ));
    }
    let missing = census
        .imports
        .iter()
        .flat_map(|name| missing(&types, name))
        .collect::<Vec<String>>();
    let asks_control = census
        .imports
        .iter()
        .any(|name| Name::of(name).interface == "skep:agent/control");
    let needs = census.needs()?;
    let never_compiled = census.compilable(&needs).err();
    let kind = if core_imports.is_some() {
        Kind::CoreModule
    } else {
        Kind::Command
    };
    let imports = core_imports.unwrap_or(census.imports);
    Ok(Read {
        facts: Facts {
            edition: Edition::CURRENT,
            kind,
            imports,
            missing,
            asks_control,
            needs,
            unlinkable: None,
            untold: false,
            never_compiled,
        },
        component,
    })
}

fn runs(name: Name<'_>) -> bool {
    name.interface == "wasi:cli/run" && name.version.starts_with("0.2.")
}

/// Whether this export has a `run` that can be called.
fn is_program(types: &Types, export: &str) -> bool {
    let types = types.as_ref();
    let item = types.component_item_for_export(export);
    let Some(ComponentEntityType::Instance(instance)) = item.map(|item| item.ty) else {
        return false;
    };
    let instance = types.get(instance);
    let run = instance.and_then(|instance| instance.exports.get("run"));
    let Some(ComponentEntityType::Func(run)) = run.map(|item| item.ty) else {
        return false;
    };
    let Some(run) = types.get(run) else {
        return false;
    };
    let Some(ComponentValType::Type(result)) = run.result else {
        return false;
    };
    let plain = matches!(
        types.get(result),
        Some(ComponentDefinedType::Result {
            ok: None,
            err: None,
            ..
        })
    );
    run.params.is_empty() && plain
}

/// What of this import nothing provides.
fn missing(types: &Types, import: &str) -> Vec<String> {
    let whole = || vec![import.to_owned()];
    let offered = Name::of(import).functions();
    let Some(item) = types.as_ref().component_item_for_import(import) else {
        return whole();
    };
    match item.ty {
        ComponentEntityType::Instance(instance) => {
            let Some(instance) = types.as_ref().get(instance) else {
                return whole();
            };
            let mut needed = instance
                .exports
                .iter()
                .filter(|(_, item)| is_needed(&item.ty));
            match offered {
                // An instance of nothing but types is there without a provider.
                None if needed.next().is_some() => whole(),
                None => Vec::new(),
                Some(offered) => needed
                    .filter(|(name, item)| match item.ty {
                        ComponentEntityType::Func(_) => !offered.contains(name.as_str()),
                        ComponentEntityType::Module(_)
                        | ComponentEntityType::Component(_)
                        | ComponentEntityType::Value(_) => true,
                        // Of resources, the linker knows.
                        ComponentEntityType::Type { .. } | ComponentEntityType::Instance(_) => {
                            false
                        }
                    })
                    .map(|(name, _)| format!("{import}#{name}"))
                    .collect(),
            }
        }
        ComponentEntityType::Type {
            referenced: ComponentAnyTypeId::Resource(_),
            ..
        }
        | ComponentEntityType::Func(_)
        | ComponentEntityType::Module(_)
        | ComponentEntityType::Component(_)
        | ComponentEntityType::Value(_) => whole(),
        ComponentEntityType::Type { .. } => Vec::new(),
    }
}

fn is_needed(entity: &ComponentEntityType) -> bool {
    match entity {
        ComponentEntityType::Type { referenced, .. } => {
            matches!(referenced, ComponentAnyTypeId::Resource(_))
        }
        _ => true,
    }
}

/// Validates everything, function bodies included.
pub(super) fn validate(bytes: &[u8]) -> Result<Types, Refusal> {
    let error = match Validator::new_with_features(engine::features()).validate_all(bytes) {
        Ok(types) => return Ok(types),
        Err(error) => error,
    };
    let message = error.to_string();
    if let Some(feature) = feature_of(error.message()) {
        return Err(Refusal::feature(feature, &message));
    }
    // A proposal that changes the encoding is met as malformed bytes.
    match Validator::new_with_features(WasmFeatures::all()).validate_all(bytes) {
        Ok(_) => Err(Refusal::feature("a proposal of WebAssembly", &message)),
        Err(_) => Err(Refusal::malformed(&error)),
    }
}

/// Which feature the validator asks for.
fn feature_of(message: &str) -> Option<&'static str> {
    const SIGNS: [&str; 6] = [
        "must be enabled",
        "not enabled",
        "requires the",
        "require the",
        "not supported without",
        "required for",
    ];
    const FEATURES: [(&str, &str); 11] = [
        ("shared-everything", "shared-everything-threads"),
        ("threads", "threads"),
        ("memory64", "memory64"),
        ("64-bit", "memory64"),
        ("exception", "exceptions"),
        ("function references", "function-references"),
        ("gc", "gc"),
        ("page size", "custom-page-sizes"),
        ("async", "component-model-async"),
        ("stack switching", "stack-switching"),
        ("", "a proposal of WebAssembly"),
    ];
    if !SIGNS.iter().any(|sign| message.contains(sign)) {
        return None;
    }
    FEATURES
        .iter()
        .find(|(sign, _)| message.contains(sign))
        .map(|(_, feature)| *feature)
}
