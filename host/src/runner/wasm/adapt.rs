//! Core modules of WASI 0.1 become components of WASI 0.2, before anything
//! else looks at them: what is inspected is what is compiled.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use skep_protocol::ErrorCode;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wasmparser::{Encoding, ExternalKind, Parser, Payload};
use wit_component::ComponentEncoder;

use super::refusal::Refusal;

/// Functions of WASI 0.1 that the adapter knows.
static ADAPTED: LazyLock<HashSet<String>> = LazyLock::new(|| {
    exports(WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
        .map(|exports| {
            exports
                .into_iter()
                .map(|(name, _)| name.to_owned())
                .collect()
        })
        .unwrap_or_default()
});

enum Kind {
    Component,
    CoreModule,
}

/// A component, adapted if need be, and the imports of the core module that it
/// was made of.
pub(super) struct Adapted<'a> {
    pub(super) component: Cow<'a, [u8]>,
    pub(super) core_imports: Option<Vec<String>>,
}

/// Tells what the bytes are and adapts a core module. Of a component only the
/// first bytes are looked at. Costs 20 ms for a core module.
pub(super) fn adapt(bytes: &[u8]) -> Result<Adapted<'_>, Refusal> {
    match kind(bytes)? {
        Kind::Component => Ok(Adapted {
            component: Cow::Borrowed(bytes),
            core_imports: None,
        }),
        Kind::CoreModule => {
            let imports = check(bytes)?;
            let component = ComponentEncoder::default()
                .module(bytes)
                .and_then(|encoder| {
                    encoder.adapter(
                        WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                        WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
                    )
                })
                .and_then(|mut encoder| encoder.encode())
                .map_err(|error| {
                    Refusal::invalid(format!(
                        "this core module cannot be made a component: {error:#}"
                    ))
                })?;
            Ok(Adapted {
                component: Cow::Owned(component),
                core_imports: Some(imports),
            })
        }
    }
}

/// Refuses what is no WebAssembly at all, and trusts the rest of the bytes to
/// nobody yet.
pub(super) fn recognise(bytes: &[u8]) -> Result<(), Refusal> {
    kind(bytes).map(drop)
}

/// What the bytes are, by their first few.
fn kind(bytes: &[u8]) -> Result<Kind, Refusal> {
    if wasmtime::Engine::detect_precompiled(bytes).is_some() {
        return Err(Refusal::invalid(
            "this is compiled code of wasmtime (.cwasm), which is never taken from a client: \
             send the component that it was compiled from",
        ));
    }
    match bytes {
        [] => Err(Refusal::invalid("this is empty")),
        [b'\0', b'a', b's', b'm', ..] if Parser::is_component(bytes) => Ok(Kind::Component),
        [b'\0', b'a', b's', b'm', ..] if Parser::is_core_wasm(bytes) => Ok(Kind::CoreModule),
        [b'\0', b'a', b's', b'm', ..] => Err(Refusal::invalid(
            "this is WebAssembly of an unknown version",
        )),
        [0x7f, b'E', b'L', b'F', ..] => Err(Refusal::invalid(
            "this is an ELF file, a native program or library: build the agent for wasm32-wasip2",
        )),
        _ if is_text(bytes) => Err(Refusal::invalid(
            "this is WebAssembly text: turn it into a binary with `wasm-tools parse`",
        )),
        _ => Err(Refusal::invalid("this is not WebAssembly")),
    }
}

fn is_text(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    [&b"(module"[..], b"(component", b"(;", b";;"]
        .iter()
        .any(|start| text.starts_with(start))
}

/// What the encoder would only complain about in its own words.
fn check(bytes: &[u8]) -> Result<Vec<String>, Refusal> {
    let validated = super::inspect::validate(bytes);
    let imports = imports(bytes).map_err(|error| Refusal::malformed(&error))?;
    let missing: Vec<String> = imports
        .iter()
        .filter(|(module, name)| {
            // A module that was made for a world of its own says so in names
            // like `skep:agent/task@0.1.0`; those are looked at afterwards.
            let provided =
                *module == WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME && ADAPTED.contains(*name);
            !provided && !module.contains('/')
        })
        .map(full_name)
        .collect();
    validated?;
    if !missing.is_empty() {
        return Err(Refusal::missing(missing));
    }
    let exports = exports(bytes).map_err(|error| Refusal::malformed(&error))?;
    if !exports.contains(&("_start", ExternalKind::Func)) {
        return Err(Refusal::of(
            ErrorCode::InvalidComponent,
            "this core module exports no function `_start`: build it as a program for \
             wasm32-wasip1 or wasm32-wasip2, not as a library",
        ));
    }
    Ok(imports.iter().map(full_name).collect())
}

fn full_name((module, name): &(&str, &str)) -> String {
    format!("{module}.{name}")
}

fn imports(bytes: &[u8]) -> wasmparser::Result<Vec<(&str, &str)>> {
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    found.push((import.module, import.name));
                }
            }
            Payload::End(_) => break,
            _ => {}
        }
    }
    Ok(found)
}

fn exports(bytes: &[u8]) -> wasmparser::Result<Vec<(&str, ExternalKind)>> {
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version {
                encoding: Encoding::Component,
                ..
            }
            | Payload::End(_) => break,
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    found.push((export.name, export.kind));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}
