//! The start of a guest linked with Debian 12's wasi-libc of May 2022, compiled
//! to an object and linked in place of that library's `crt1-command.o`.
//!
//! Newer Rust expects a newer wasi-libc in two places, and this file closes both
//! gaps. It needs no `core`, so that the compiler alone can build it: the
//! `lang_items` below are the least that it asks of any program.

#![feature(no_core, lang_items)]
#![no_core]
#![no_std]
#![allow(internal_features)]

#[lang = "pointee_sized"]
pub trait PointeeSized {}
#[lang = "meta_sized"]
pub trait MetaSized: PointeeSized {}
#[lang = "sized"]
pub trait Sized: MetaSized {}
#[lang = "copy"]
pub trait Copy {}
impl Copy for i32 {}
impl Copy for u32 {}

unsafe extern "C" {
    fn __wasm_call_ctors();
    fn __main_void() -> i32;
    fn __wasm_call_dtors();
    fn _Exit(code: i32);
}

/// The entry point. That of 2022, linked by today's `wasm-ld`, runs no
/// constructors, and they are what sets up the granted directories.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _start() {
    unsafe {
        __wasm_call_ctors();
        let code = __main_void();
        __wasm_call_dtors();
        // A plain return is success to WASI, anything else must be said.
        match code {
            0 => {}
            _ => _Exit(code),
        }
    }
}

// `std::thread` names the functions below, and that libc has none of them. A
// guest has one thread, so starting another fails, as it does with a newer libc.

/// `ENOTSUP` of wasi-libc.
const NOT_SUPPORTED: i32 = 58;

#[unsafe(no_mangle)]
pub extern "C" fn pthread_attr_init(_attributes: u32) -> i32 {
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn pthread_attr_destroy(_attributes: u32) -> i32 {
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn pthread_attr_setstacksize(_attributes: u32, _bytes: u32) -> i32 {
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn pthread_create(_thread: u32, _attributes: u32, _start: u32, _arg: u32) -> i32 {
    NOT_SUPPORTED
}
#[unsafe(no_mangle)]
pub extern "C" fn pthread_detach(_thread: u32) -> i32 {
    0
}
#[unsafe(no_mangle)]
pub extern "C" fn pthread_join(_thread: u32, _result: u32) -> i32 {
    NOT_SUPPORTED
}
