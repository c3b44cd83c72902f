use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

fn yard() -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(dir.path().join("canary"), "secret").unwrap();
    (dir, root)
}

fn names(page: &FilesPage) -> Vec<(&str, FileKind)> {
    page.files
        .iter()
        .map(|file| (file.path.as_str(), file.kind))
        .collect()
}

#[test]
fn a_directory_is_listed_page_by_page() {
    let (_dir, root) = yard();
    fs::create_dir(root.join("d")).unwrap();
    for number in 0..25 {
        fs::write(root.join(format!("d/{number:02}")), vec![b'x'; number]).unwrap();
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = list(&root, Some("d"), after.as_deref(), 10).unwrap();
        assert!(page.files.len() <= 10);
        seen.extend(page.files);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    for (number, file) in seen.iter().enumerate() {
        assert_eq!(file.path, format!("d/{number:02}"));
        assert_eq!((file.size, file.kind), (number as u64, FileKind::File));
        assert!(file.modified_ms > 1_700_000_000_000, "{file:?}");
    }
    // Exactly a page: nothing comes after it.
    assert_eq!(list(&root, Some("d"), None, 25).unwrap().next, None);
    assert_eq!(
        list(&root, Some("d"), Some("d/24"), 5).unwrap().files,
        vec![]
    );
}

#[test]
fn a_directory_with_too_many_entries_is_not_listed() {
    // Some file systems give a file 65,000 names at most.
    const NAMES: usize = 50_000;
    let (_dir, root) = yard();
    let mut file = root.join("0");
    for number in 0..MAX_ENTRIES {
        let name = root.join(number.to_string());
        if number % NAMES == 0 {
            fs::write(&name, "").unwrap();
            file = name;
        } else {
            fs::hard_link(&file, name).unwrap();
        }
    }
    let page = list(&root, None, Some("99998"), 1).unwrap();
    assert_eq!(names(&page), [("99999", FileKind::File)]);
    fs::create_dir(root.join("one more")).unwrap();
    assert!(matches!(
        list(&root, None, Some("99998"), 1),
        Err(LookError::TooMany)
    ));
    assert!(list(&root, Some("one more"), None, 1).is_ok());
}

#[test]
fn nothing_outside_is_reached_and_no_link_is_followed() {
    let (dir, root) = yard();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/file"), "mine").unwrap();
    symlink(dir.path(), root.join("up")).unwrap();
    symlink("../canary", root.join("relative")).unwrap();
    symlink("d", root.join("inner")).unwrap();
    symlink("d/file", root.join("link")).unwrap();
    for path in [
        "up/canary",
        "up",
        "relative",
        "inner/file",
        "link",
        "../canary",
        "/etc/passwd",
        "d/../../canary",
        "missing",
        "d/file/x",
    ] {
        let error = read(&root, path, 0, 10).unwrap_err();
        assert!(matches!(error, LookError::NotThere), "{path}: {error}");
        let error = list(&root, Some(path), None, 10).unwrap_err();
        assert!(matches!(error, LookError::NotThere), "{path}: {error}");
    }
    assert_eq!(read(&root, "d/file", 0, 10).unwrap().data, b"mine"[..]);
    assert!(matches!(
        read(&root, "d", 0, 10),
        Err(LookError::Not("regular file"))
    ));
    let page = list(&root, None, None, 10).unwrap();
    assert_eq!(
        names(&page),
        [
            ("d", FileKind::Dir),
            ("inner", FileKind::Link),
            ("link", FileKind::Link),
            ("relative", FileKind::Link),
            ("up", FileKind::Link),
        ]
    );
}

#[test]
fn a_pipe_is_listed_and_never_waited_for() {
    let (_dir, root) = yard();
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, mode, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let page = list(&root, None, None, 10).unwrap();
    assert_eq!(
        names(&page),
        [("pipe", FileKind::Other), ("socket", FileKind::Other)]
    );
    assert!(matches!(
        read(&root, "pipe", 0, 10),
        Err(LookError::Not("regular file"))
    ));
    assert!(matches!(
        list(&root, Some("pipe"), None, 10),
        Err(LookError::Not("directory"))
    ));
    assert!(read(&root, "socket", 0, 10).is_err());
}

#[test]
fn names_are_shown_whatever_they_are() {
    let (_dir, root) = yard();
    for name in [&b"a\nb"[..], b"\x1b[31m", b"\xff\xfe", b"\xff\xfd", b"ok"] {
        fs::write(root.join(OsStr::from_bytes(name)), "x").unwrap();
    }
    let page = list(&root, None, None, 10).unwrap();
    // Two that look the same are one: neither can be named.
    assert_eq!(
        names(&page),
        [
            ("\u{1b}[31m", FileKind::File),
            ("a\nb", FileKind::File),
            ("ok", FileKind::File),
            ("\u{fffd}\u{fffd}", FileKind::Other),
        ]
    );
    assert_eq!(read(&root, "a\nb", 0, 10).unwrap().data, b"x"[..]);
}

#[test]
fn a_file_is_read_in_pieces() {
    let (_dir, root) = yard();
    fs::write(root.join("f"), "0123456789").unwrap();
    let piece = |offset, max| {
        let chunk = read(&root, "f", offset, max).unwrap();
        assert_eq!(chunk.size, 10);
        (String::from_utf8(chunk.data.into_vec()).unwrap(), chunk.eof)
    };
    assert_eq!(piece(0, 4), ("0123".to_owned(), false));
    assert_eq!(piece(4, 6), ("456789".to_owned(), true));
    assert_eq!(piece(8, 100), ("89".to_owned(), true));
    assert_eq!(piece(10, 1), (String::new(), true));
    assert_eq!(piece(u64::MAX, 1), (String::new(), true));
    // A sparse file of an exabyte takes no memory to be looked at.
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    if sparse.set_len(1 << 42).is_ok() {
        let chunk = read(&root, "sparse", (1 << 42) - 3, 100).unwrap();
        assert_eq!((chunk.data.len(), chunk.eof), (3, true));
    }
}

#[test]
fn a_tree_is_measured_however_deep() {
    let (_dir, root) = yard();
    assert_eq!(measure_and_open(&root).unwrap(), Size::default());
    fs::write(root.join("file"), vec![1; 100_000]).unwrap();
    symlink("/", root.join("link")).unwrap();
    // From the inside out, since no path may be as long as the tree is deep.
    let (inner, outer) = (root.join("inner"), root.join("outer"));
    fs::create_dir(&inner).unwrap();
    for _ in 0..3000 {
        fs::create_dir(&outer).unwrap();
        fs::rename(&inner, outer.join("d")).unwrap();
        fs::rename(&outer, &inner).unwrap();
    }
    let size = measure_and_open(&root).unwrap();
    assert_eq!(size.entries, 3003);
    assert!(size.bytes >= 100_000 + 3003 * ENTRY_BYTES, "{size:?}");
    // Not by path, which the clean-up of the test could not do.
    drop(crate::scratch::Scratch::found(root));
}

#[test]
fn what_its_owner_closed_is_opened_to_be_measured() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("left");
    fs::create_dir_all(root.join("closed/inner")).unwrap();
    let file = root.join("closed/inner/file");
    fs::write(&file, "text").unwrap();
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for path in [
        &file,
        &root.join("closed/inner"),
        &root.join("closed"),
        &root,
    ] {
        set(path, 0o000);
    }
    assert_eq!(measure_and_open(&root).unwrap().entries, 3);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&root), mode(&root.join("closed"))), (0o700, 0o700));
    assert_eq!(mode(&file), 0o400);
    let read = read(&root, "closed/inner/file", 0, 10).unwrap();
    assert_eq!(read.data.as_slice(), b"text");
}
