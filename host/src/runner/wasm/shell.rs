//! What is seen of a module from outside: what it imports and exports, of the same types,
//! and nothing behind it. Exported functions trap, one for all of a type, and globals
//! are zero.

use std::collections::{BTreeSet, HashMap};

use wasm_encoder::{
    CodeSection, ConstExpr, Encode, Function, FunctionSection, HeapType, Instruction, Module,
    RawSection,
};
use wasmparser::{
    ExportSectionReader, ExternalKind, GlobalSectionReader, Parser, Payload, Result, TypeRef,
    ValType,
};

use super::modules::within;

/// Sections by their number in the binary format.
const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;

/// The shell of a module.
#[derive(Debug)]
pub(super) struct Shell {
    pub(super) bytes: Vec<u8>,
    /// How many functions it has.
    pub(super) functions: usize,
}

/// The shell of a validated module.
///
/// # Errors
///
/// Where it is none.
pub(super) fn shell(module: &[u8]) -> Result<Shell> {
    let functions = Functions::of(module)?;
    let mut shell = Module::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::FunctionSection(_) => {
                let mut types = FunctionSection::new();
                functions.exported.iter().for_each(|&ty| {
                    types.function(ty);
                });
                shell.section(&types);
            }
            Payload::GlobalSection(section) => {
                let data = &zero(module, &section)?;
                shell.section(&RawSection { id: GLOBAL, data });
            }
            Payload::ExportSection(section) => {
                let data = &functions.renumbered(&section)?;
                shell.section(&RawSection { id: EXPORT, data });
            }
            Payload::CodeSectionStart { .. } => {
                let mut trap = Function::new([]);
                trap.instruction(&Instruction::Unreachable);
                trap.instruction(&Instruction::End);
                let mut code = CodeSection::new();
                functions.exported.iter().for_each(|_| {
                    code.function(&trap);
                });
                shell.section(&code);
            }
            kept @ (Payload::TypeSection(_)
            | Payload::ImportSection(_)
            | Payload::TableSection(_)
            | Payload::MemorySection(_)
            | Payload::TagSection(_)) => {
                if let Some((id, range)) = kept.as_section() {
                    let data = within(module, range);
                    shell.section(&RawSection { id, data });
                }
            }
            _ => {}
        }
    }
    Ok(Shell {
        bytes: shell.finish(),
        functions: functions.exported.len(),
    })
}

/// The functions of a module, by their types.
#[derive(Default)]
struct Functions {
    imported: u32,
    /// The type of each that it has of its own.
    own: Vec<u32>,
    /// The types of those of its own that it exports.
    exported: BTreeSet<u32>,
}

impl Functions {
    fn of(module: &[u8]) -> Result<Self> {
        let mut functions = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        if matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                            functions.imported += 1;
                        }
                    }
                }
                Payload::FunctionSection(section) => {
                    functions.own = section.into_iter().collect::<Result<_>>()?;
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        if matches!(export.kind, ExternalKind::Func | ExternalKind::FuncExact) {
                            functions.exported.extend(functions.own_type(export.index));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(functions)
    }

    /// The type of a function, if it is not imported.
    fn own_type(&self, index: u32) -> Option<u32> {
        let own = index.checked_sub(self.imported)?;
        self.own.get(own as usize).copied()
    }

    /// The contents of a section of exports, each function by the number that one of its
    /// type has in the shell.
    fn renumbered(&self, exports: &ExportSectionReader<'_>) -> Result<Vec<u8>> {
        let numbers: HashMap<u32, u32> = (self.exported.iter().copied())
            .zip(self.imported..)
            .collect();
        let of_type = |ty| numbers.get(&ty).copied();
        let mut out = Vec::new();
        exports.count().encode(&mut out);
        for export in exports.clone() {
            let export = export?;
            let (kind, index) = match export.kind {
                ExternalKind::Func | ExternalKind::FuncExact => {
                    let own = self.own_type(export.index).and_then(of_type);
                    (0, own.unwrap_or(export.index))
                }
                ExternalKind::Table => (1, export.index),
                ExternalKind::Memory => (2, export.index),
                ExternalKind::Global => (3, export.index),
                ExternalKind::Tag => (4, export.index),
            };
            export.name.encode(&mut out);
            out.push(kind);
            index.encode(&mut out);
        }
        Ok(out)
    }
}

/// The contents of a section of globals, each of which is zero or null.
fn zero(module: &[u8], globals: &GlobalSectionReader<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    globals.count().encode(&mut out);
    for global in globals.clone().into_iter_with_offsets() {
        let (at, global) = global?;
        let value = global.init_expr.get_binary_reader().original_position();
        out.extend_from_slice(within(module, at..value));
        let zero = match global.ty.content_type {
            ValType::I32 => ConstExpr::i32_const(0),
            ValType::I64 => ConstExpr::i64_const(0),
            ValType::F32 => ConstExpr::f32_const(0.0.into()),
            ValType::F64 => ConstExpr::f64_const(0.0.into()),
            ValType::V128 => ConstExpr::v128_const(0),
            // No others without the collector.
            ValType::Ref(_) => ConstExpr::ref_null(HeapType::FUNC),
        };
        zero.encode(&mut out);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use wasmparser::{Validator, WasmFeatures};

    use super::super::tests::wat;
    use super::*;

    #[test]
    fn a_shell_has_the_outside_and_nothing_else() {
        let module = wat(r#"(module
            (import "a" "f" (func $imported (param i64)))
            (memory (export "memory") 3 7)
            (table (export "table") 10 funcref)
            (global $g (export "g") (mut v128) (v128.const i32x4 1 2 3 4))
            (global funcref (ref.func $second))
            (global i64 (i64.const 5)) (global f32 (f32.const 5)) (global f64 (f64.const 5))
            (global (export "ten") i32 (i32.const 10))
            (func $first unreachable)
            (func $second (export "second") (export "again") (param i32) (result f32)
                (call $first) (f32.const 1))
            (func (export "alike") (param i32) (result f32) (f32.const 2))
            (func (export "third") (data.drop $d) (table.init $e
                (i32.const 0) (i32.const 0) (i32.const 0)))
            (export "f" (func $imported))
            (start $first)
            (elem $e func $first $second)
            (elem (i32.const 0) func $first)
            (data $d "passive")
            (data (i32.const 0) "active"))"#);
        let Shell {
            bytes: shell,
            functions,
        } = shell(&module).unwrap();
        assert_eq!(functions, 2);
        Validator::new_with_features(WasmFeatures::WASM3)
            .validate_all(&shell)
            .unwrap();
        let engine = super::super::engine::for_compiling(false).unwrap();
        let told = |ty: wasmtime::ExternType| match ty {
            wasmtime::ExternType::Func(ty) => ty.to_string(),
            ty => format!("{ty:?}"),
        };
        let outside = |bytes: &[u8]| {
            let module = wasmtime::Module::new(&engine, bytes).unwrap();
            let imports = module.imports().map(|import| told(import.ty()));
            let exports = module
                .exports()
                .map(|export| format!("{} {}", export.name(), told(export.ty())));
            imports.chain(exports).collect::<Vec<_>>()
        };
        assert_eq!(outside(&shell), outside(&module));
        assert_eq!(Functions::of(&shell).unwrap().own, [1, 2]);
        let kinds = Parser::new(0).parse_all(&shell).map(Result::unwrap);
        let bodies = kinds.filter(|kind| matches!(kind, Payload::CodeSectionEntry(_)));
        assert_eq!(bodies.count(), 2);
        let data = |byte: &[u8]| shell.windows(byte.len()).any(|window| window == byte);
        assert!(!data(b"passive") && !data(b"active"));
    }

    #[test]
    fn an_empty_module_is_its_own_shell() {
        let module = wat("(module)");
        assert_eq!(shell(&module).unwrap().bytes, module);
    }
}
