use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

/// Where this controller serves, for programs on the same machine: the ports may have been chosen by the system.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Addresses {
    pub(super) operators: SocketAddr,
    pub(super) agents: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metrics: Option<SocketAddr>,
}

impl Addresses {
    /// Replaces the file in one step: a reader finds it whole or not at all.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let staging = path.with_extension("json.new");
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        fs::write(&staging, text)?;
        fs::rename(&staging, path)
    }

    pub(super) fn remove(path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_whole_and_removed_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("addresses.json");
        let (operators, agents) = ("127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        Addresses { operators, agents, metrics: None }.write(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"operators\":\"127.0.0.1:1\",\"agents\":\"[::1]:2\"}\n"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        Addresses::remove(&path).unwrap();
        Addresses::remove(&path).unwrap();
    }
}
