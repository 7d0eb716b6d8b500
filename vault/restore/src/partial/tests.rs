#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

fn paths() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (partial, path) = (folder.path().join("disk.partial"), folder.path().join("disk"));
    (folder, partial, path)
}

fn mode(file: &File) -> u32 {
    file.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn nobody_else_can_read_it() {
    let (_folder, partial, path) = paths();
    assert_eq!(mode(&create(&partial, &path).unwrap()), 0o600);
}

/// Whoever put it there may have it open, and may read what is written to it.
#[test]
fn what_lies_there_is_replaced_and_never_written_to() {
    let (_folder, partial, path) = paths();
    std::fs::write(&partial, vec![9; 50_000]).unwrap();
    std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o666)).unwrap();
    let planted = File::open(&partial).unwrap();
    let file = create(&partial, &path).unwrap();
    assert!(is_named(&file, &partial).unwrap());
    assert!(!is_named(&planted, &partial).unwrap());
    assert_eq!((mode(&file), file.metadata().unwrap().len()), (0o600, 0));
    assert_eq!(planted.metadata().unwrap().len(), 50_000);
}

#[test]
fn a_link_is_not_followed_and_what_is_no_file_is_left_alone() {
    let (folder, partial, path) = paths();
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "mine").unwrap();
    for target in [&precious, &folder.path().join("missing")] {
        symlink(target, &partial).unwrap();
        assert!(matches!(create(&partial, &path), Err(RestoreError::NotAFile { .. })));
        std::fs::remove_file(&partial).unwrap();
    }
    std::fs::create_dir(&partial).unwrap();
    assert!(matches!(create(&partial, &path), Err(RestoreError::NotAFile { .. })));
    std::fs::remove_dir(&partial).unwrap();
    mknodat(CWD, &partial, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(matches!(create(&partial, &path), Err(RestoreError::NotAFile { .. })));
    assert_eq!(std::fs::read(&precious).unwrap(), b"mine");
    assert!(!folder.path().join("missing").try_exists().unwrap());
}

/// A restore that was killed after it named the file, before it took the other name away.
#[test]
fn a_finished_disk_that_still_has_both_names_is_not_touched() {
    let (_folder, partial, path) = paths();
    std::fs::write(&path, "finished").unwrap();
    std::fs::hard_link(&path, &partial).unwrap();
    let file = create(&partial, &path).unwrap();
    assert!(is_named(&file, &partial).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"finished");
}

/// Each of them makes the file, writes to it, and gives it its name, as often as it can: whatever has the name is whole.
#[test]
fn of_many_restores_each_finished_one_is_whole() {
    let (_folder, partial, path) = paths();
    std::thread::scope(|scope| {
        for number in 0..6_u8 {
            let (partial, path) = (&partial, &path);
            scope.spawn(move || {
                let mut finished = 0;
                while finished < 100 {
                    let mut file = match create(partial, path) {
                        Ok(file) => file,
                        Err(RestoreError::Busy { .. }) => continue,
                        Err(error) => panic!("{error:?}"),
                    };
                    io::Write::write_all(&mut file, &[number; 100]).unwrap();
                    assert!(is_named(&file, partial).unwrap(), "it was taken away while it was written");
                    std::fs::rename(partial, path).unwrap();
                    finished += 1;
                    assert_eq!(file.metadata().unwrap().len(), 100, "it was emptied under its final name");
                }
            });
        }
    });
    assert_eq!(std::fs::read(&path).unwrap().len(), 100);
}
