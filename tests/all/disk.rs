//! A small disk of its own, which can be filled.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// It is there as long as this lives.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// None where this process may not mount; which it was is told.
    #[expect(clippy::print_stdout, reason = "which case ran")]
    pub(crate) fn mount(at: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={bytes},mode=700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(at)
            .output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            println!("tried on a disk of {bytes} bytes");
            Some(Self(at.to_owned()))
        } else {
            println!("not tried: this process may not mount a disk of its own");
            None
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes all that is free, with a file that can be removed.
    pub(crate) fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        assert!(file.metadata().unwrap().len() > 0, "nothing was free");
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
