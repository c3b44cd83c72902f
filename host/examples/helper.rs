//! The helper of hosts and nothing else, for the tests of what they run.

fn main() {
    skep_host::helper::serve_if_asked();
    std::process::exit(2)
}
