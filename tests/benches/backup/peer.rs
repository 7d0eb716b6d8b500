use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Program;
use crate::cost::{self, Cost};

const PASSWORD: &str = "benchmark";

/// A program that is installed, with a repository of its own.
pub(crate) struct Peer {
    kind: Kind,
    repository: PathBuf,
    cache: PathBuf,
    archives: u32,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Restic,
    Rustic,
    /// What its manual recommends, encrypted, with restic's compression.
    Borg,
    /// Chunks of a fixed size, as its manual advises for raw images; its quickest.
    BorgFixed,
}

impl Peer {
    pub(crate) fn start(name: &str, folder: &Path) -> Self {
        let kind = match name {
            "restic" => Kind::Restic,
            "rustic" => Kind::Rustic,
            "borg" => Kind::Borg,
            "borg-fixed" => Kind::BorgFixed,
            _ => panic!("{name}: known are holdfast, restic, rustic, borg, borg-fixed"),
        };
        let peer =
            Self { kind, repository: folder.join("repository"), cache: folder.join("cache"), archives: 0 };
        cost::of(match kind {
            Kind::Restic | Kind::Rustic => peer.command(&["init"]),
            Kind::Borg | Kind::BorgFixed => peer.command(&["init", "-e", "repokey-blake2", &peer.path()]),
        });
        peer
    }

    fn path(&self) -> String {
        self.repository.to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command;
        match self.kind {
            Kind::Restic => {
                command = Command::new("restic");
                command.args(["-q", "-r"]).arg(&self.repository);
            }
            Kind::Rustic => {
                command = Command::new("rustic");
                command.args(["--no-progress", "--log-level", "warn", "-r"]).arg(&self.repository);
            }
            Kind::Borg | Kind::BorgFixed => command = Command::new("borg"),
        }
        command.args(args);
        for name in ["RESTIC_PASSWORD", "RUSTIC_PASSWORD", "BORG_PASSPHRASE"] {
            command.env(name, PASSWORD);
        }
        for name in ["RESTIC_CACHE_DIR", "RUSTIC_CACHE_DIR", "BORG_BASE_DIR"] {
            command.env(name, &self.cache);
        }
        command
    }

    fn help(&self, command: &str) -> String {
        let output = self.command(&[command, "--help"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn archive(&self) -> String {
        format!("{}::{}", self.path(), self.archives)
    }
}

impl Program for Peer {
    fn back_up(&mut self, disk: &Path) -> Cost {
        self.archives += 1;
        let disk = disk.to_str().unwrap();
        let borg = |compression: &str, chunks: &str| {
            let chunks = format!("--chunker-params={chunks}");
            self.command(&["create", "--sparse", "-C", compression, &chunks, &self.archive(), disk])
        };
        cost::of(match self.kind {
            Kind::Restic | Kind::Rustic => self.command(&["backup", disk]),
            Kind::Borg => borg("zstd,3", "buzhash,19,23,21,4095"),
            Kind::BorgFixed => borg("lz4", "fixed,4194304"),
        })
    }

    fn restore(&mut self, to: &Path) -> Cost {
        let folder = to.to_str().unwrap();
        cost::of(match self.kind {
            // Before its version 0.15 there was no --sparse.
            Kind::Restic if self.help("restore").contains("--sparse") => {
                self.command(&["restore", "latest", "--sparse", "--target", folder])
            }
            Kind::Restic => self.command(&["restore", "latest", "--target", folder]),
            Kind::Rustic => self.command(&["restore", "latest", folder]),
            Kind::Borg | Kind::BorgFixed => {
                let mut command = self.command(&["extract", "--sparse", &self.archive()]);
                command.current_dir(to);
                command
            }
        })
    }

    fn verify(&mut self) -> Option<Cost> {
        Some(cost::of(match self.kind {
            Kind::Restic | Kind::Rustic => self.command(&["check", "--read-data"]),
            Kind::Borg | Kind::BorgFixed => self.command(&["check", "--verify-data", &self.path()]),
        }))
    }

    fn repository(&self) -> &Path {
        &self.repository
    }
}
