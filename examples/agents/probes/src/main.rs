//! `probe COMMAND [ARGS…]`: one agent with many behaviours, good and bad, for
//! the tests of a host.
//!
//! One binary, since most of a small component is the standard library. It
//! imports all of `skep:agent` therefore, `control` included.

mod files;
mod output;
mod people;
mod resources;

use std::str::FromStr;

/// What is said of a command line that makes no sense, with exit code 2.
const USAGE: &str = "\
usage: probe COMMAND
  spin                    compute for ever
  sleep MS                wait, then print `slept`
  alloc                   take memory without end, and print each MiB taken
  lines N [PREFIX]        print N numbered lines
  tick N MS [PREFIX]      print N numbered lines, one each MS
  flood N                 print N bytes without a newline
  stderr N                print N numbered lines to stderr
  exit CODE               end with that code
  panic                   panic
  env                     print all arguments and the environment, sorted
  task                    print what the task is
  progress                report some progress
  until-stop              print `ready`, wait to be asked to stop, end with 3
  read-stdin              print how many bytes came in
  ls PATH                 list a directory, sorted
  cat PATH                print a file
  write PATH TEXT         write a file";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["spin"] => resources::spin(),
        ["sleep", ms] => resources::sleep(number(ms)),
        ["alloc"] => resources::alloc(),
        ["lines", count] => output::lines(number(count), "line"),
        ["lines", count, prefix] => output::lines(number(count), prefix),
        ["tick", count, ms] => output::tick(number(count), number(ms), "tick"),
        ["tick", count, ms, prefix] => output::tick(number(count), number(ms), prefix),
        ["flood", count] => output::flood(number(count)),
        ["stderr", count] => output::stderr(number(count)),
        ["exit", code] => skep_guest::exit(number(code)),
        ["panic"] => panic!("asked to panic"),
        ["env"] => people::env(),
        ["task"] => people::task(),
        ["progress"] => people::progress(),
        ["until-stop"] => people::until_stop(),
        ["read-stdin"] => files::read_stdin(),
        ["ls", path] => files::ls(path),
        ["cat", path] => files::cat(path),
        ["write", path, text] => files::write(path, text),
        _ => usage(),
    };
    if let Err(error) = done {
        eprintln!("probe: {error}");
        skep_guest::exit(1);
    }
}

fn number<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| usage())
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    skep_guest::exit(2)
}
