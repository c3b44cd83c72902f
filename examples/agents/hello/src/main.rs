//! `hello [NAME]`: prints a greeting, and ends.

fn main() {
    let name = std::env::args().nth(1);
    println!("Hello, {}!", name.as_deref().unwrap_or("world"));
}
