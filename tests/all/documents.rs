//! The tests are there that LIMITS.md and SECURITY.md name.

use std::fs::{read_dir, read_to_string};
use std::path::Path;

/// Finds the tests below a directory, each with the whole of its path.
fn find(dir: &Path, above: &str, tests: &mut Vec<String>) {
    for entry in read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name.strip_suffix(".rs") {
            None if path.is_dir() => find(&path, &format!("{above}::{name}"), tests),
            Some("mod") => find_in(&path, above, tests),
            Some(name) => find_in(&path, &format!("{above}::{name}"), tests),
            None => {}
        }
    }
}

fn find_in(file: &Path, module: &str, tests: &mut Vec<String>) {
    let source = read_to_string(file).unwrap();
    let (mut within, mut is_test) = (String::new(), false);
    for line in source.lines() {
        let named = |kind| line.split_once(kind)?.1.split(['(', ' ']).next();
        is_test |= line.trim() == "#[test]" || line.trim().starts_with("#[tokio::test");
        match (named("mod "), named("fn ")) {
            _ if line == "}" => within.clear(),
            (Some(name), _) if line.ends_with(" {") => within = format!("{name}::"),
            (_, Some(name)) if std::mem::take(&mut is_test) => {
                tests.push(format!("{module}::{within}{name}"));
            }
            _ => {}
        }
    }
    // Those that a macro makes of their names.
    let rows = source.split_once("\nrows! {").map_or("", |(_, rows)| rows);
    let rows = rows.split_whitespace().take_while(|row| *row != "}");
    tests.extend(rows.map(|row| format!("{module}::{row}")));
}

#[test]
fn every_test_that_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut tests = Vec::new();
    for part in ["client", "host", "protocol", "tests", "transport"] {
        find(&root.join(part), part, &mut tests);
    }
    for document in ["LIMITS.md", "SECURITY.md"] {
        let text = read_to_string(root.join(document)).unwrap();
        assert!(!text.contains("| — |"), "{document}: no test is named");
        let is_name = |text: &&str| text.contains("::") && !text.ends_with(':');
        let named = text.split('`').skip(1).step_by(2).filter(is_name);
        let (found, missing): (Vec<_>, Vec<_>) = named.partition(|name| {
            let end = format!("::{name}");
            tests.iter().any(|test| test.ends_with(&end))
        });
        assert!(missing.is_empty(), "{document}: no test is {missing:?}");
        assert!(found.len() > 9, "{document}: {found:?}");
    }
}
