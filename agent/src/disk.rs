//! The disks of this machine: those that its owner named, and whole block devices.

mod look;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use holdfast_proto::error::{ErrorDetailExt as _, user_error};
use holdfast_proto::v1::{Disk, ErrorDetail};

use crate::config::{Config, ConfiguredDisk};
use look::Looks;

/// Most disks that Hello may list.
const MAX_DISKS: usize = 1024;
/// Devices that are made of others, of memory, or of nothing.
const NOT_DISKS: [&str; 7] = ["loop", "ram", "zram", "dm-", "sr", "fd", "md"];

/// Where one disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskSource {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl From<&ConfiguredDisk> for DiskSource {
    fn from(disk: &ConfiguredDisk) -> Self {
        Self { name: disk.name.clone(), path: disk.path.clone() }
    }
}

/// The disks that the machine's owner named.
pub(crate) fn configured(config: &Config) -> Vec<DiskSource> {
    config.disks.iter().map(DiskSource::from).collect()
}

/// Lists disks anew each time: they come and go.
#[derive(Debug)]
pub(crate) struct Inventory {
    rules: ArcSwap<Rules>,
    /// Without symbolic links.
    places: Looks<Option<PathBuf>>,
    sizes: Looks<Result<u64, Arc<io::Error>>>,
}

/// What the configuration says of disks.
#[derive(Debug)]
struct Rules {
    configured: Vec<ConfiguredDisk>,
    discover: bool,
}

impl Rules {
    fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self { configured: config.disks.clone(), discover: config.discover })
    }
}

impl Inventory {
    pub(crate) fn new(config: &Config) -> Self {
        Self::of(Rules::new(config))
    }

    fn of(rules: Arc<Rules>) -> Self {
        Self {
            rules: ArcSwap::new(rules),
            places: Looks::with(|path| path.canonicalize().ok()),
            sizes: Looks::with(|path| size_of(path).map_err(Arc::new)),
        }
    }

    /// Goes by another configuration from now on.
    pub(crate) fn reload(&self, config: &Config) {
        self.rules.store(Rules::new(config));
    }

    /// Every disk, configured ones first.
    pub(crate) fn sources(&self) -> Vec<DiskSource> {
        let rules = self.rules.load();
        let mut sources: Vec<DiskSource> = rules.configured.iter().map(DiskSource::from).collect();
        if rules.discover {
            let places = self.places.at(sources.iter().map(|source| source.path.as_path()));
            let known: Vec<PathBuf> = places.into_iter().flatten().flatten().collect();
            let found = discover(Path::new("/sys/block"), Path::new("/dev")).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot list the block devices");
                Vec::new()
            });
            for mut source in found.into_iter().filter(|source| !known.contains(&source.path)) {
                if sources.iter().any(|other| other.name == source.name) {
                    let device = source.path.file_name().unwrap_or_default().to_string_lossy();
                    source.name = disk_name(&format!("{}-{device}", source.name));
                }
                sources.push(source);
            }
        }
        sources.truncate(MAX_DISKS);
        sources
    }

    /// The named disks, or all of them if no name is given.
    ///
    /// # Errors
    /// `disk_not_found` for a name that this machine does not have.
    pub(crate) fn select(&self, names: &[String]) -> Result<Vec<DiskSource>, ErrorDetail> {
        let sources = self.sources();
        if names.is_empty() {
            return Ok(sources);
        }
        let mut selected = Vec::new();
        for name in names {
            let source = sources.iter().find(|source| source.name == *name).ok_or_else(|| {
                user_error("disk_not_found", format!("this machine has no disk {name:?}"))
                    .action("compare with `holdfast machine show`")
            })?;
            if !selected.contains(source) {
                selected.push(source.clone());
            }
        }
        Ok(selected)
    }

    /// The disks with their sizes, for the controller. Those that cannot be read are left out; one that does not answer is told
    /// as it was last, if it ever answered.
    pub(crate) fn list(&self) -> Vec<Disk> {
        let sources = self.sources();
        let sizes = self.sizes.at(sources.iter().map(|source| source.path.as_path()));
        let mut disks = Vec::new();
        for (source, size) in sources.into_iter().zip(sizes) {
            match size {
                Some(Ok(size_bytes)) => disks.push(Disk { name: source.name, size_bytes }),
                Some(Err(error)) => {
                    tracing::warn!(disk = source.name, path = %source.path.display(), %error, "disk not readable");
                }
                None => {}
            }
        }
        disks
    }
}

/// Size in bytes of a block device or file.
///
/// # Errors
/// If it cannot be opened or is neither.
pub(crate) fn size_of(path: &Path) -> io::Result<u64> {
    let metadata = path.metadata()?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    // Not to wait for the other end of a pipe.
    size_of_device(File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?)
}

fn size_of_device(mut device: File) -> io::Result<u64> {
    device.seek(SeekFrom::End(0))
}

fn discover(sys_block: &Path, dev: &Path) -> io::Result<Vec<DiskSource>> {
    let by_id = names_by_id(&dev.join("disk/by-id"));
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(sys_block)? {
        let entry = entry?;
        let Some(kernel_name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if NOT_DISKS.iter().any(|prefix| kernel_name.starts_with(prefix)) {
            continue;
        }
        let sectors = read_attribute(&entry.path().join("size"));
        if sectors.and_then(|sectors| sectors.parse::<u64>().ok()).unwrap_or(0) == 0 {
            continue;
        }
        let serial =
            ["serial", "device/serial"].iter().find_map(|file| read_attribute(&entry.path().join(file)));
        let name =
            by_id.get(OsStr::new(&kernel_name)).cloned().or(serial).unwrap_or_else(|| kernel_name.clone());
        sources.push(DiskSource { name: disk_name(&name), path: dev.join(&kernel_name) });
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let mut seen = std::collections::HashSet::new();
    for source in &mut sources {
        if !seen.insert(source.name.clone()) {
            // Two disks with one serial number: the kernel's name is all that is left to tell them apart.
            let device = source.path.file_name().unwrap_or_default().to_string_lossy();
            source.name = disk_name(&format!("{}-{device}", source.name));
            seen.insert(source.name.clone());
        }
    }
    Ok(sources)
}

/// Stable names per kernel name; those that say what a disk is before bare world-wide numbers.
fn names_by_id(dir: &Path) -> HashMap<std::ffi::OsString, String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return HashMap::new() };
    let mut names: Vec<(String, std::ffi::OsString)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_str()?.to_owned(), target.file_name()?.to_owned()))
        })
        .collect();
    names.sort_by_key(|(name, _)| {
        (name.starts_with("wwn-") || name.starts_with("nvme-eui") || name.starts_with("lvm-"), name.clone())
    });
    let mut by_device = HashMap::new();
    for (name, device) in names {
        by_device.entry(device).or_insert(name);
    }
    by_device
}

fn read_attribute(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Makes a valid name of any text; what is too long keeps a hash, so that names stay different.
fn disk_name(text: &str) -> String {
    // A controller refuses everything that an agent says of its disks for one name that looks like an option or is hidden.
    let front = if text.starts_with(['-', '.']) { "_" } else { "" };
    let rest = text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' });
    let name: String = front.chars().chain(rest).collect();
    if name.len() <= 64 {
        return name;
    }
    let hash = blake3::hash(text.as_bytes()).to_hex();
    format!("{}-{}", &name[..47], &hash[..16])
}

#[cfg(test)]
mod tests;
