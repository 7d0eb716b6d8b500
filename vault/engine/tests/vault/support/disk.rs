//! File systems on loop devices, and what a power cut would leave of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::skip::skip;

/// File systems that differ in what else a sync carries along: all of the journal, or one directory alone.
pub(crate) const FORMATS: [&[&str]; 2] = [&["mkfs.ext4", "-q", "-F"], &["mkfs.btrfs", "-q", "-f"]];

/// A file system on a loop device that writes nothing back by itself for five minutes.
pub(crate) struct Disk {
    pub(crate) mount_point: PathBuf,
    pub(crate) backing: PathBuf,
}

impl Disk {
    pub(crate) fn make(dir: &Path, format: &[&str]) -> Option<Self> {
        Self::make_of(dir, format, 256 << 20)
    }

    /// Of so many bytes.
    pub(crate) fn make_of(dir: &Path, format: &[&str], size: u64) -> Option<Self> {
        let backing = dir.join("disk");
        std::fs::File::create(&backing).unwrap().set_len(size).unwrap();
        let made = Command::new(format[0]).args(&format[1..]).arg(&backing).output();
        if !made.is_ok_and(|made| made.status.success()) {
            skip(format_args!("{} is missing, or makes no file system of {size} bytes", format[0]));
            return None;
        }
        let disk = Self { mount_point: dir.join("mount"), backing };
        disk.mount().then_some(disk)
    }

    /// One whose file somebody else writes to this folder.
    pub(crate) fn at(dir: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        Self { mount_point: dir.join("mount"), backing: dir.join("disk") }
    }

    pub(crate) fn mount(&self) -> bool {
        std::fs::create_dir_all(&self.mount_point).unwrap();
        let kind = Command::new("blkid").args(["-o", "value", "-s", "TYPE"]).arg(&self.backing).output();
        // XFS knows no such time.
        let options =
            if kind.is_ok_and(|kind| kind.stdout.starts_with(b"xfs")) { "loop" } else { "loop,commit=300" };
        let mounted = Command::new("mount")
            .args(["-o", options])
            .args([&self.backing, &self.mount_point])
            .output()
            .unwrap();
        if !mounted.status.success() {
            skip(format_args!("cannot mount: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
        }
        mounted.status.success()
    }

    /// The disk as it would be after a power cut now.
    pub(crate) fn after_power_cut(&self, dir: &Path) -> Self {
        let cut = Self::at(dir);
        std::fs::copy(&self.backing, &cut.backing).unwrap();
        // Two file systems with one id cannot be mounted together; the old one has served its purpose.
        self.unmount();
        assert!(cut.mount());
        cut
    }

    pub(crate) fn unmount(&self) {
        let unmounted = Command::new("umount").arg("-d").arg(&self.mount_point).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").args(["-l", "-d"]).arg(&self.mount_point).status();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.contains(&format!(" {} ", self.mount_point.display())) {
            self.unmount();
        }
    }
}
