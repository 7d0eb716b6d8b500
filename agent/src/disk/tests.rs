use std::os::unix::fs::symlink;

use super::*;
use crate::config::is_disk_name;

fn device(root: &Path, name: &str, sectors: u64, serial: Option<&str>) {
    let dir = root.join("block").join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("size"), format!("{sectors}\n")).unwrap();
    if let Some(serial) = serial {
        std::fs::write(dir.join("serial"), serial).unwrap();
    }
}

#[test]
fn finds_whole_disks_and_names_them_by_what_is_most_stable() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    device(root, "vda", 100, Some("root disk"));
    device(root, "vdb", 100, None);
    device(root, "sda", 100, Some("ignored"));
    device(root, "nvme0n1", 0, None);
    for name in ["loop0", "ram1", "zram0", "dm-3", "sr0", "md0"] {
        device(root, name, 100, None);
    }
    let by_id = root.join("dev/disk/by-id");
    std::fs::create_dir_all(&by_id).unwrap();
    symlink("../../sda", by_id.join("wwn-0x5000")).unwrap();
    symlink("../../sda", by_id.join("ata-MODEL_SERIAL")).unwrap();
    let found = discover(&root.join("block"), &root.join("dev")).unwrap();
    let names: Vec<&str> = found.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["ata-MODEL_SERIAL", "root_disk", "vdb"]);
}

#[test]
fn disks_with_one_serial_stay_apart() {
    let root = tempfile::tempdir().unwrap();
    device(root.path(), "vda", 1, Some("same"));
    device(root.path(), "vdb", 1, Some("same"));
    let found = discover(&root.path().join("block"), &root.path().join("dev")).unwrap();
    assert_eq!((found[0].name.as_str(), found[1].name.as_str()), ("same", "same-vdb"));
}

#[test]
fn any_text_becomes_a_valid_name_and_long_ones_stay_different() {
    let long = "x".repeat(100);
    let (a, b) = (disk_name(&format!("{long}a")), disk_name(&format!("{long}b")));
    assert!(is_disk_name(&a) && is_disk_name(&b) && a != b);
    assert!(is_disk_name(&disk_name("Größe / 5 µm")));
}

#[test]
fn no_serial_makes_a_name_that_a_controller_refuses() {
    let root = tempfile::tempdir().unwrap();
    for (device_name, serial) in [("vda", "-rf"), ("vdb", ".hidden"), ("vdc", "..")] {
        device(root.path(), device_name, 1, Some(serial));
    }
    let found = discover(&root.path().join("block"), &root.path().join("dev")).unwrap();
    let names: Vec<&str> = found.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["_-rf", "_.hidden", "_.."]);
    assert!(names.iter().all(|name| is_disk_name(name)));
    let long = format!("-{}", "x".repeat(100));
    assert!(is_disk_name(&disk_name(&long)));
}

#[test]
fn an_unknown_name_is_refused_and_no_name_means_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.raw");
    std::fs::write(&path, [0; 100]).unwrap();
    let configured = vec![ConfiguredDisk { name: "a".to_owned(), path }];
    let inventory = Inventory::of(Arc::new(Rules { configured, discover: false }));
    assert_eq!(inventory.select(&[]).unwrap().len(), 1);
    assert_eq!(inventory.select(&["b".to_owned()]).unwrap_err().code, "disk_not_found");
    assert_eq!(inventory.list(), vec![Disk { name: "a".to_owned(), size_bytes: 100 }]);
}

#[test]
fn a_disk_that_does_not_answer_hides_no_other_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, [0; 100]).unwrap();
        ConfiguredDisk { name: name.to_owned(), path }
    };
    let configured = vec![disk("hangs"), disk("answers")];
    let hanging = configured[0].path.clone();
    let rules = Arc::new(Rules { configured, discover: false });
    let sizes = Looks::with(move |path| {
        if path == hanging {
            loop {
                std::thread::park();
            }
        }
        size_of(path).map_err(Arc::new)
    });
    let inventory = Inventory { sizes, ..Inventory::of(rules) };
    assert_eq!(inventory.list(), vec![Disk { name: "answers".to_owned(), size_bytes: 100 }]);
    assert_eq!(inventory.select(&["hangs".to_owned(), "answers".to_owned()]).unwrap().len(), 2);
}
