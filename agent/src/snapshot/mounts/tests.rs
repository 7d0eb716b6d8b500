use super::*;

#[test]
fn lines_of_mountinfo_are_read_with_their_escapes() {
    let line = br"36 35 7:3 / /mnt/a\040b\134c rw,noatime master:1 shared:2 - ext4 /dev/loop\0113 rw";
    let mount = parse(line).unwrap();
    assert_eq!(mount.id, 36);
    assert_eq!(mount.device, DeviceNumber { major: 7, minor: 3 });
    assert_eq!(mount.mount_point, Path::new("/mnt/a b\\c"));
    assert_eq!(mount.source, Path::new("/dev/loop\t3"));
    for wrong in
        [&b""[..], b"1 2", b"x 35 7:3 / /mnt rw - ext4 /dev/loop3 rw", b"36 35 7 / /mnt rw - ext4 /dev/x rw"]
    {
        assert_eq!(parse(wrong), None, "{wrong:?}");
    }
}

#[test]
fn the_file_system_of_an_open_file_is_one_that_is_mounted() {
    let mounts = Mounts::read().unwrap();
    let device = mounts.file_system_of(File::open("/proc/self/mountinfo").unwrap()).unwrap();
    assert!(mounts.contains(device));
    let proc = mounts.open(device).unwrap();
    assert_eq!(mounts.file_system_of(&proc.file).unwrap(), device);
}

#[test]
fn nothing_lies_on_a_plain_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let found = Mounts::read().unwrap().lying_on(&[&file.path().metadata().unwrap()]).unwrap();
    assert!(found.is_empty());
}
