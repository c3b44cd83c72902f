//! Paths of an agent's files, as they stand on the wire.

/// The longest path, in bytes, and the longest of its parts: what the kernel
/// takes.
const MAX_PATH: usize = 4095;
const MAX_PART: usize = 255;

/// Whether a path can only lead downwards: relative, of parts that are neither
/// empty nor `.` nor `..`, and not longer than a kernel takes.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    path.len() <= MAX_PATH
        && !path.contains('\0')
        && path
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && part.len() <= MAX_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_lead_downwards() {
        let (part, long) = ("x".repeat(255), "x".repeat(256));
        let deep = vec!["d"; 2048].join("/");
        for plain in ["a", "a/b", "...", "a b", "\n", "é", &part, &deep] {
            assert!(is_plain(plain), "{plain}");
        }
        let deeper = format!("{deep}/d");
        for not in [
            "", "/", "/a", "a/", "a//b", ".", "./a", "..", "a/../b", "a\0b", &long, &deeper,
        ] {
            assert!(!is_plain(not), "{not}");
        }
    }
}
