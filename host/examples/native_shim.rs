//! The shim of native agents and nothing else, for the tests of their runner.

fn main() {
    skep_host::runner::native::shim::shim_main()
}
