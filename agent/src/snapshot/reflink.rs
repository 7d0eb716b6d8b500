//! Provider `reflink`: a copy of an image file that shares its blocks, in a hidden directory beside the image. XFS and
//! btrfs can do that; it takes time by the number of the image's extents, not by its size.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use holdfast_proto::ids::SnapshotId;
use rustix::fs::{AtFlags, IFlags, Mode, OFlags};
use rustix::io::Errno;

/// Beside each image; only the agent may enter it.
pub(crate) const DIRECTORY: &str = ".holdfast-snapshots";

/// The directory of the clones of one image's directory, open.
#[derive(Debug)]
pub(crate) struct CloneDir {
    directory: File,
    path: PathBuf,
}

/// The name of a clone in its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloneName {
    pub(crate) snapshot: SnapshotId,
    pub(crate) disk: String,
}

impl std::fmt::Display for CloneName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.snapshot, self.disk)
    }
}

impl CloneName {
    /// `None` for a file that is no clone of ours.
    fn parse(text: &str) -> Option<Self> {
        let (id, disk) = text.split_once('.')?;
        let name = Self { snapshot: id.parse().ok()?, disk: disk.to_owned() };
        // One way to write each: what we would not write is not ours.
        (name.to_string() == text).then_some(name)
    }
}

/// Whether a file system can clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reflinks {
    Supported,
    Unsupported,
}

impl CloneDir {
    /// Opens the directory beside an image, and makes it if need be.
    ///
    /// # Errors
    /// Of the file system; `PermissionDenied` if somebody else made it, or made it a link.
    pub(crate) fn create(image: &Path) -> io::Result<Self> {
        let path = beside(image)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Self::open_path(path)
    }

    /// Opens a directory of clones; `None` if there is none.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        match Self::open_path(path.to_owned()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn open_path(path: PathBuf) -> io::Result<Self> {
        let directory =
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(&path)?;
        let metadata = directory.metadata()?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
            let reason = format!("{} is not the agent's own, with mode 0700", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        Ok(Self { directory, path })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.path
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Leaves no trace on a file system that is of no use.
    pub(crate) fn remove_if_empty(&self) {
        // Not empty, or gone: both are fine.
        let _ = std::fs::remove_dir(&self.path);
    }

    pub(crate) fn path(&self, name: &CloneName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Finds out by doing it, with files that have no name.
    ///
    /// # Errors
    /// Of the file system, other than that it cannot clone.
    pub(crate) fn probe(&self) -> io::Result<Reflinks> {
        let nameless = || {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::openat(&self.directory, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode)
        };
        let cloned = nameless().and_then(|from| rustix::fs::ioctl_ficlone(nameless()?, from));
        match cloned {
            Ok(()) => Ok(Reflinks::Supported),
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::ISDIR) => {
                Ok(Reflinks::Unsupported)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the empty file that is to become a clone of the image.
    ///
    /// # Errors
    /// Of the file system; a file of this name must not be there.
    pub(crate) fn reserve(&self, name: &CloneName, image: &File) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name.to_string(), flags, Mode::RUSR | Mode::WUSR)?;
        // btrfs clones between files only if both are copied on write, or neither is.
        if let Ok(image_flags) = rustix::fs::ioctl_getflags(image)
            && image_flags.contains(IFlags::NOCOW)
        {
            let own = rustix::fs::ioctl_getflags(&file)?;
            rustix::fs::ioctl_setflags(&file, own | IFlags::NOCOW)?;
        }
        // The name must be there after a power cut as long as the journal is.
        self.directory.sync_all()?;
        Ok(file)
    }

    /// Opens a clone for reading.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn open_clone(&self, name: &CloneName) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.directory, name.to_string(), flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
    }

    /// Removes a clone; one that is gone already is fine. Whoever has it open can go on reading.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn remove(&self, name: &CloneName) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.directory, name.to_string(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The clones that are there.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn clones(&self) -> io::Result<Vec<CloneName>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory)? {
            names.extend(entry?.file_name().to_str().ok().and_then(CloneName::parse));
        }
        Ok(names)
    }
}

/// Makes `clone` share all blocks of the image. The image is locked for writing meanwhile.
///
/// # Errors
/// Of the file system.
pub(crate) fn clone_into(clone: BorrowedFd<'_>, image: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(clone, image.as_fd())?)
}

/// Where the clones of an image are.
///
/// # Errors
/// If the image cannot be found.
pub(crate) fn beside(image: &Path) -> io::Result<PathBuf> {
    // The image may be named by a link: its clones belong to its own file system.
    let image = image.canonicalize()?;
    let parent = image.parent().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(parent.join(DIRECTORY))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_names_of_our_own_making_are_clones() {
        let name = CloneName { snapshot: SnapshotId::generate(), disk: "data.1".to_owned() };
        assert_eq!(CloneName::parse(&name.to_string()), Some(name.clone()));
        for wrong in ["data.raw", "", ".", "..", &name.snapshot.to_string(), &name.to_string().to_uppercase()]
        {
            assert_eq!(CloneName::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_directory_that_somebody_else_prepared_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("data.raw");
        std::fs::write(&image, b"x").unwrap();
        let path = dir.path().join(DIRECTORY);
        std::os::unix::fs::symlink("/etc", &path).unwrap();
        assert_eq!(CloneDir::create(&image).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        std::fs::remove_file(&path).unwrap();
        CloneDir::create(&image).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o770)).unwrap();
        assert_eq!(CloneDir::create(&image).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
