use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::runner::wasm::inspect::Kind;

fn facts() -> Facts {
    Facts {
        kind: Kind::CoreModule,
        imports: vec!["wasi:cli/exit@0.2.0".to_owned()],
        ..Facts::default()
    }
}

fn cache(dir: &Path) -> Cache {
    Cache::new(Some(dir.to_owned()), 7, 1 << 20)
}

/// A directory like the one that a host makes.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    dir
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    all
}

fn one_entry(dir: &Path) -> PathBuf {
    let [entry] = &entries(dir)[..] else {
        panic!("{:?}", entries(dir))
    };
    entry.clone()
}

#[test]
fn what_is_kept_is_found_by_the_next_and_is_its_owners_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/skep");
    let digest = Digest::of(b"component");
    assert_eq!(cache(&dir).get(&digest), None);
    cache(&dir).put(&digest, &facts(), b"code");
    let found = cache(&dir).get(&digest).unwrap();
    assert_eq!(found, (facts(), Bytes::from_static(b"code")));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&one_entry(&dir)), 0o600);
    assert_eq!(cache(&dir).get(&Digest::of(b"another")), None);
    let other_engine = Cache::new(Some(dir), 8, 1 << 20);
    assert_eq!(other_engine.get(&digest), None);
}

#[test]
fn damage_anywhere_is_found_and_mended_by_the_next() {
    let dir = directory();
    let (cache, digest) = (cache(dir.path()), Digest::of(b"component"));
    let put = || cache.put(&digest, &facts(), b"some code");
    put();
    let path = one_entry(dir.path());
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(cache.get(&digest), None, "byte {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(cache.get(&digest), None, "cut at {at}");
    }
    std::fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    assert_eq!(cache.get(&digest), None);
    put();
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    assert!(cache.get(&digest).is_some());
}

#[test]
fn an_entry_serves_only_whom_it_was_made_for() {
    let dir = directory();
    let (cache, digest) = (cache(dir.path()), Digest::of(b"component"));
    cache.put(&digest, &facts(), b"code");
    let entry = one_entry(dir.path());
    // Whole, but under the name of another component, and of another engine.
    let another = Digest::of(b"another");
    std::fs::copy(&entry, dir.path().join(cache.name(&another))).unwrap();
    assert_eq!(cache.get(&another), None);
    let other_engine = Cache::new(Some(dir.path().to_owned()), 8, 1 << 20);
    std::fs::copy(&entry, dir.path().join(other_engine.name(&digest))).unwrap();
    assert_eq!(other_engine.get(&digest), None);
    assert!(cache.get(&digest).is_some());
}

#[test]
fn what_others_may_have_written_is_not_run() {
    let dir = directory();
    let digest = Digest::of(b"component");
    cache(dir.path()).put(&digest, &facts(), b"code");
    let entry = one_entry(dir.path());
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(&entry, 0o620);
    assert_eq!(cache(dir.path()).get(&digest), None);
    mode(&entry, 0o600);
    for open in [0o770, 0o702, 0o777, 0o1777] {
        mode(dir.path(), open);
        let cache = cache(dir.path());
        assert_eq!(cache.get(&digest), None, "{open:o}");
        cache.put(&Digest::of(b"new"), &facts(), b"code");
        assert_eq!(
            entries(dir.path()),
            std::slice::from_ref(&entry),
            "{open:o}"
        );
    }
    mode(dir.path(), 0o700);
    assert!(cache(dir.path()).get(&digest).is_some());
    // A link, whoever made it; and what would hold up whoever opens it.
    let aside = dir.path().join("aside");
    std::fs::rename(&entry, &aside).unwrap();
    symlink(&aside, &entry).unwrap();
    assert_eq!(cache(dir.path()).get(&digest), None);
    std::fs::remove_file(&entry).unwrap();
    nix::unistd::mkfifo(&entry, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(cache(dir.path()).get(&digest), None);
}

#[test]
fn without_a_directory_nothing_is_kept() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [None, Some(file.join("skep")), Some("/proc/skep".into())] {
        let cache = Cache::new(path, 7, 1 << 20);
        cache.put(&Digest::of(b"component"), &facts(), b"code");
        assert_eq!(cache.get(&Digest::of(b"component")), None);
    }
}

#[test]
fn those_used_longest_ago_go_first() {
    let dir = directory();
    let digest = |n: u64| Digest::of(&n.to_le_bytes());
    cache(dir.path()).put(&digest(0), &facts(), &[0; 1000]);
    let size = one_entry(dir.path()).metadata().unwrap().len();
    let cache = Cache::new(Some(dir.path().to_owned()), 7, 4 * size);
    for n in 0..4 {
        cache.put(&digest(n), &facts(), &[0; 1000]);
        // Files of one instant have no order.
        let file = std::fs::File::open(dir.path().join(cache.name(&digest(n)))).unwrap();
        let used = SystemTime::now() - Duration::from_secs(100 - n);
        file.set_modified(used).unwrap();
    }
    assert!(cache.get(&digest(0)).is_some());
    let half_written = dir.path().join("0.new");
    std::fs::write(&half_written, "").unwrap();
    let just_begun = dir.path().join("1.new");
    std::fs::write(&just_begun, "").unwrap();
    let file = std::fs::File::open(&half_written).unwrap();
    file.set_modified(SystemTime::now() - 2 * DEAD_AFTER)
        .unwrap();
    cache.put(&digest(4), &facts(), &[0; 1000]);
    let kept: Vec<u64> = (0..5)
        .filter(|&n| cache.get(&digest(n)).is_some())
        .collect();
    assert_eq!(kept, [0, 2, 3, 4]);
    assert!(!half_written.exists() && just_begun.exists());
}

#[test]
fn many_that_write_and_read_at_once_see_whole_entries() {
    let dir = directory();
    let digest = Digest::of(b"component");
    let code = vec![0x5a; 200_000];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let cache = cache(dir.path());
                    cache.put(&digest, &facts(), &code);
                    assert_eq!(cache.get(&digest).unwrap().1, code);
                }
            });
        }
    });
    assert_eq!(entries(dir.path()).len(), 1);
}
