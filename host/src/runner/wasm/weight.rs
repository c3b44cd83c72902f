//! What a compiled component takes of the host: its code as it is, and what wasmtime
//! reads from it and keeps besides, which is many times as large as it is written. A
//! module of nearly a million globals is 6 MiB compiled, and took 77 in memory.

use object::{Object, ObjectSection};

use super::refusal::Refusal;

/// Where wasmtime writes what it reads again.
const METADATA: &str = ".wasmtime.info";

/// How many times as large that is in memory, at most. Measured were 5 for programs,
/// 10 for globals, 15 for types, 17 for exports, 18 for functions of a component.
const IN_MEMORY: usize = 24;

/// How large it may be as it is written. Of programs it is some 4 % of their code.
const MAX_METADATA: usize = 8 * 1024 * 1024;

/// Bytes of what wasmtime reads from compiled code.
fn metadata(code: &[u8]) -> usize {
    let file = object::File::parse(code).ok();
    let section = file.and_then(|file| {
        let section = file.section_by_name(METADATA)?;
        usize::try_from(section.size()).ok()
    });
    // Where it isn't found, it may be all of it.
    section.unwrap_or(code.len())
}

/// Refuses what would take too much of the host besides its code.
pub(super) fn bounded(code: &[u8]) -> Result<(), Refusal> {
    let metadata = metadata(code);
    if metadata <= MAX_METADATA {
        return Ok(());
    }
    let message = format!(
        "what is kept of its types, imports, exports, globals and instances is {metadata} bytes \
         besides its code, and this host takes {MAX_METADATA} at most"
    );
    Err(Refusal::compiling("metadata_bytes", message))
}

/// Bytes that compiled code takes once it is loaded, an upper estimate.
pub(super) fn weight(code: &[u8]) -> usize {
    let metadata = metadata(code).saturating_mul(IN_MEMORY);
    code.len().saturating_add(metadata)
}

#[cfg(test)]
mod tests {
    use super::super::engine::for_compiling;
    use super::super::tests::{command, prebuilt, wat};
    use super::*;

    #[test]
    fn what_is_read_of_code_weighs_more_than_it_is_written() {
        let engine = for_compiling(true).unwrap();
        let hello = engine.precompile_component(&prebuilt("hello")).unwrap();
        assert!((1..hello.len() / 10).contains(&metadata(&hello)));
        assert_eq!(weight(&hello), hello.len() + IN_MEMORY * metadata(&hello));
        // What was measured of it: 68 bytes for each.
        let globals = "(global (mut i64) (i64.const 0))".repeat(30_000);
        let globals = command("i32.const 0", &globals);
        let globals = engine.precompile_component(&globals).unwrap();
        assert!(weight(&globals) - globals.len() > 68 * 30_000);
        // Some kilobytes, but what is imported a thousand times is kept a hundred times:
        // 33 bytes each.
        let each = |what: &dyn Fn(usize) -> String| (0..1_000).map(what).collect::<String>();
        let imports = wat(&format!(
            r#"(component
                (core module $given (func (export "f")))
                (core instance $given (instantiate $given))
                (core module $m {})
                (core instance $all {})
                {})"#,
            each(&|n| format!("(import \"\" \"{n}\" (func))")),
            each(&|n| format!("(export \"{n}\" (func $given \"f\"))")),
            "(core instance (instantiate $m (with \"\" (instance $all))))".repeat(100),
        ));
        let imports = engine.precompile_component(&imports).unwrap();
        assert!(weight(&imports) - imports.len() > 33 * 100_000);
        // What is no compiled code is believed to be the worst.
        assert_eq!(weight(&[0; 100]), 100 + IN_MEMORY * 100);
    }
}
