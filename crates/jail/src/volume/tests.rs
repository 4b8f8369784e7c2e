//! What can be shown without a file system of one's own.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use wharf_domain::image::ImageRef;

use super::home::has_simple_quotas;
use super::meta::Meta;
use super::{Driver, own_limit, remove_tree, tree};

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("vol-u-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn a_fork_may_write_its_limit_less_what_it_inherited() {
    let image = ImageRef { name: "base".parse().unwrap(), digest: "0".repeat(64) };
    let mut meta = Meta { image, disk_mib: 100, inherited_bytes: 0, from: None, taken: None };
    assert_eq!(own_limit(&meta), 100 << 20);
    meta.inherited_bytes = 30 << 20;
    assert_eq!(own_limit(&meta), 70 << 20);
    meta.inherited_bytes = 300 << 20;
    assert_eq!(own_limit(&meta), 0);
}

#[test]
fn content_counts_each_hard_linked_file_once() {
    let dir = scratch("count");
    fs::write(dir.join("a"), vec![1; 1 << 20]).unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::hard_link(dir.join("a"), dir.join("sub/b")).unwrap();
    // Else the file's blocks are not yet known.
    fs::File::open(dir.join("a")).unwrap().sync_all().unwrap();
    let bytes = tree::content_bytes(&fs::File::open(&dir).unwrap().into()).unwrap();
    assert!((1 << 20..(1 << 20) + 100_000).contains(&bytes), "{bytes}");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_tree_deeper_than_all_descriptors_is_removed_and_links_in_it_are_not_followed() {
    let dir = scratch("deep");
    fs::write(dir.join("outside"), "kept").unwrap();
    fs::create_dir(dir.join("tree")).unwrap();
    std::os::unix::fs::symlink(&dir, dir.join("tree/link")).unwrap();
    let mut at: OwnedFd = fs::File::open(dir.join("tree")).unwrap().into();
    for _ in 0..1500 {
        rustix::fs::mkdirat(&at, ".lifted-1", rustix::fs::Mode::RWXU).unwrap();
        at = super::open_in(&at, ".lifted-1").unwrap();
    }
    drop(at);
    remove_tree(&fs::File::open(&dir).unwrap().into(), "tree").unwrap();
    remove_tree(&fs::File::open(&dir).unwrap().into(), "tree").unwrap();
    assert!(!dir.join("tree").exists());
    assert_eq!(fs::read_to_string(dir.join("outside")).unwrap(), "kept");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn drivers_are_named_as_capabilities_name_them() {
    assert_eq!((Driver::Btrfs.as_str(), Driver::Directory.as_str()), ("btrfs", "directory"));
}

#[test]
fn old_kernels_get_the_directory_driver() {
    for (release, has) in
        [("6.1.0-18-amd64", false), ("5.15.0", false), ("6.7.0", true), ("6.18.44-fc", true), ("7.0", true)]
    {
        assert_eq!(has_simple_quotas(release), has, "{release}");
    }
    assert!(has_simple_quotas("something else"));
}
