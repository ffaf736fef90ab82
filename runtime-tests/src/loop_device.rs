// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owns a loop device of the host for the time of a case, over a file in the case's own place.
//! Never formats or mounts it, and gives it back on drop, also when the case fails.
//! The device's numbers go to configs and cgroup files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug)]
pub struct LoopDevice(PathBuf);

impl LoopDevice {
    /// This machine has loop devices, and losetup(8).
    pub fn available() -> bool {
        Path::new("/dev/loop-control").exists() && Command::new("losetup").arg("--version").output().is_ok()
    }

    /// A device of 16 MiB over the file `disk` in `dir`.
    #[track_caller]
    pub fn over(dir: &Path) -> Self {
        let file = dir.join("disk");
        fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let out = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        LoopDevice(PathBuf::from(String::from_utf8(out.stdout).unwrap().trim()))
    }

    /// Major and minor.
    pub fn numbers(&self) -> (u64, u64) {
        let rdev = fs::metadata(&self.0).unwrap().rdev();
        (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let status = Command::new("losetup").arg("--detach").arg(&self.0).status();
        if !status.is_ok_and(|s| s.success()) {
            eprintln!("clean-up: {} stays", self.0.display());
        }
    }
}
