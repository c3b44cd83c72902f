//! Components that import what is there, and what is not.

/// A component with these imports, whose `run` comes from a module with more in
/// it.
pub(super) fn component(imports: &str, module: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component {imports}
            (core module $m (func (export "run") (result i32) (i32.const 0)) {module})
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $e (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $e)))"#
    ))
    .unwrap()
}

pub(super) const NOBODYS: &str =
    r#"(import "nobody:knows/this@1.2.3" (instance (export "f" (func))))"#;
pub(super) const NO_SUCH_FUNCTION: &str =
    r#"(import "wasi:cli/stdout@0.2.0" (instance (export "get-stdin" (func))))"#;
pub(super) const SOCKETS: &str = r#"(import "wasi:sockets/network@0.2.0" (instance $network
        (export "network" (type (sub resource)))))
    (alias export $network "network" (type $n))
    (import "wasi:sockets/instance-network@0.2.0" (instance
        (alias outer 1 $n (type $outer))
        (export "network" (type $own (eq $outer)))
        (export "instance-network" (func (result (own $own))))))"#;
pub(super) const FILES: &str = r#"(import "wasi:filesystem/types@0.2.0" (instance $types
        (export "descriptor" (type (sub resource)))))
    (alias export $types "descriptor" (type $d))
    (import "wasi:filesystem/preopens@0.2.0" (instance
        (alias outer 1 $d (type $outer))
        (export "descriptor" (type $own (eq $outer)))
        (export "get-directories" (func (result (list (tuple (own $own) string)))))))"#;
pub(super) const HTTP: &str =
    r#"(import "wasi:http/types@0.2.0" (instance (export "fields" (type (sub resource)))))"#;
pub(super) const ANOTHER_TYPE: &str = r#"(import "wasi:random/random@0.2.0" (instance
        (export "get-random-u64" (func (result u32)))))"#;
pub(super) const EXPORTED_AGAIN: &str = r#"(import "wasi:random/random@0.2.0" (instance $r
        (export "get-random-u64" (func (result u64)))))
    (export "foo:bar/again" (instance $r))"#;
pub(super) const NO_SUCH_RESOURCE: &str =
    r#"(import "wasi:io/error@0.2.0" (instance (export "mistake" (type (sub resource)))))"#;
pub(super) const WORLD_0_3: &str = r#"(import "wasi:cli/stdout@0.3.0" (instance))"#;

/// A core module of WASI 0.1.
pub(super) fn core_module(import: &str) -> Vec<u8> {
    let module = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "{import}" (func (param i32)))
            (memory (export "memory") 1)
            (func (export "_start")))"#
    );
    wat::parse_str(module).unwrap()
}
