//! A program that may be run as root because only root could have put it there.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::geteuid;

use super::{Hook, HookError};

/// A checked program, open. It is run by this descriptor, whatever becomes of its name.
#[derive(Debug)]
pub(crate) struct Program {
    hook: Hook,
    path: PathBuf,
    file: File,
}

impl Program {
    /// Opens a program, name by name from the root on, and checks each of them.
    ///
    /// # Errors
    /// [`HookError::Refused`] if it is no executable file, or anyone but root (or the agent's own user) could change it.
    pub(crate) fn open(hook: Hook, path: &Path) -> Result<Self, HookError> {
        let refused = |reason| HookError::Refused { hook, path: path.to_owned(), reason };
        let file = open_checked(path).map_err(refused)?;
        Ok(Self { hook, path: path.to_owned(), file })
    }

    pub(crate) fn hook(&self) -> Hook {
        self.hook
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Another descriptor of the program.
    pub(crate) fn try_clone(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_checked(path: &Path) -> Result<File, String> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut current = PathBuf::from("/");
    let mut directory = File::from(
        openat(CWD, "/", flags | OFlags::DIRECTORY | OFlags::PATH, Mode::empty())
            .map_err(|errno| format!("cannot open /: {errno}"))?,
    );
    check_owner(&current, &directory)?;
    let mut names = path.components().skip(1).peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else { return Err("its path has .. in it".to_owned()) };
        current.push(name);
        let how = if names.peek().is_some() {
            flags | OFlags::DIRECTORY | OFlags::PATH
        } else {
            // Not to wait for the other end of a pipe.
            flags | OFlags::RDONLY | OFlags::NONBLOCK
        };
        directory = match openat(&directory, name, how, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::LOOP) => return Err(format!("{} is a symbolic link", current.display())),
            Err(rustix::io::Errno::NOTDIR) => {
                return Err(format!("{} is no directory, or a symbolic link", current.display()));
            }
            Err(errno) => return Err(format!("cannot open {}: {errno}", current.display())),
        };
        check_owner(&current, &directory)?;
    }
    let metadata = directory.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if metadata.mode() & 0o100 == 0 {
        return Err("it is not executable".to_owned());
    }
    Ok(directory)
}

fn check_owner(path: &Path, file: &File) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
        return Err(format!("{} belongs to user {}", path.display(), metadata.uid()));
    }
    // In root's own directory of that kind, such as /tmp, nobody moves or replaces what is not his.
    let sticky = metadata.is_dir() && metadata.uid() == 0 && metadata.mode() & 0o1000 != 0;
    if metadata.mode() & 0o022 != 0 && !sticky {
        return Err(format!(
            "{} can be written by others (mode {:o})",
            path.display(),
            metadata.mode() & 0o7777
        ));
    }
    Ok(())
}
