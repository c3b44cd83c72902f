//! One hash over a set of files: the same on every machine and checkout.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The SHA-256 of some bytes, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// One hash over the names and the contents of `files`.
///
/// Names are relative to `root` and sorted, and line ends are made `\n`: neither
/// where a checkout lies nor how git converts it matters.
pub(super) fn hash<'a>(
    root: &Path,
    files: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<String> {
    let named: BTreeMap<String, &PathBuf> = files
        .into_iter()
        .map(|file| (relative(root, file), file))
        .collect();
    let mut hash = Sha256::new();
    for (name, file) in named {
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let content = unix_lines(&content);
        // Lengths first: no two sets of files run together to the same bytes.
        for part in [name.as_bytes(), content.as_slice()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hex(&hash.finalize()))
}

/// All files below `dir` but hidden ones, build output and nested packages.
pub(super) fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        let entries =
            fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let path = entry.path();
            // Links to directories are not followed: they can go in circles.
            if name.to_string_lossy().starts_with('.') {
            } else if entry.file_type()?.is_dir() {
                if name != "target" && !path.join("Cargo.toml").exists() {
                    open.push(path);
                }
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// `file` as seen from `root`, with `/` everywhere. Both are absolute.
fn relative(root: &Path, file: &Path) -> String {
    let from: Vec<Component<'_>> = root.components().collect();
    let to: Vec<Component<'_>> = file.components().collect();
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from.iter().skip(shared).map(|_| "..".into());
    let down = to
        .iter()
        .skip(shared)
        .map(|part| part.as_os_str().to_string_lossy());
    up.chain(down).collect::<Vec<_>>().join("/")
}

fn unix_lines(content: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(content.len());
    let mut bytes = content.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\r' || bytes.peek() != Some(&b'\n') {
            lines.push(byte);
        }
    }
    lines
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(files: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("workspace");
        let mut paths = Vec::new();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            paths.push(path);
        }
        hash(&root, &paths).unwrap()
    }

    #[test]
    fn the_place_of_a_checkout_does_not_matter() {
        let files = [("workspace/a.rs", "a"), ("sdk/b.rs", "b")];
        assert_eq!(hash_of(&files), hash_of(&files));
    }

    #[test]
    fn the_order_of_files_does_not_matter() {
        assert_eq!(
            hash_of(&[("a.rs", "a"), ("b.rs", "b")]),
            hash_of(&[("b.rs", "b"), ("a.rs", "a")])
        );
    }

    #[test]
    fn the_line_ends_of_a_checkout_do_not_matter() {
        assert_eq!(
            hash_of(&[("a.rs", "one\r\ntwo\r\n")]),
            hash_of(&[("a.rs", "one\ntwo\n")])
        );
        assert_ne!(
            hash_of(&[("a.rs", "one\rtwo")]),
            hash_of(&[("a.rs", "one\ntwo")])
        );
    }

    #[test]
    fn names_and_contents_matter() {
        let before = hash_of(&[("a.rs", "a"), ("b.rs", "b")]);
        assert_ne!(before, hash_of(&[("a.rs", "a"), ("b.rs", "c")]));
        assert_ne!(before, hash_of(&[("a.rs", "a"), ("c.rs", "b")]));
        assert_ne!(before, hash_of(&[("a.rs", "a")]));
        assert_ne!(before, hash_of(&[("a.rs", "ab.rsb")]));
    }

    #[test]
    fn a_path_is_seen_from_its_root() {
        let root = Path::new("/checkout/examples/agents");
        let seen = |file| relative(root, Path::new(file));
        assert_eq!(
            seen("/checkout/examples/agents/a/src/main.rs"),
            "a/src/main.rs"
        );
        assert_eq!(seen("/checkout/sdk/lib.rs"), "../../sdk/lib.rs");
    }

    #[test]
    fn a_known_digest_is_right() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
