//! Importing images from archives: good ones come out as they went in, wicked ones touch nothing outside.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};
use tar::EntryType;
use wharf_domain::Name;
use wharf_jail::image::{Progress, Store};
use wharf_jail::step::{Kind, Step};
use wharf_ports::runtime::ImageInfo;

use crate::harness::missing;
use crate::lab::{append, root_tar};

/// A directory with a store and, beside it, a file an archive may want to get at.
struct Shelf {
    dir: PathBuf,
    store: Store,
    name: Name,
}

impl Shelf {
    /// `None` where nothing can be unpacked with its owners.
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if missing().is_some() {
            return None;
        }
        let dir = PathBuf::from(format!(
            "/tmp/vol-i-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("victim"), "untouched").unwrap();
        Some(Self { store: Store::open(&dir).unwrap(), dir, name: "plain".parse().unwrap() })
    }

    fn import(&self, archive: &[u8]) -> Result<ImageInfo, Step> {
        let path = self.dir.join("archive");
        fs::write(&path, archive).unwrap();
        self.store.import(&self.name, File::open(path).unwrap(), &mut |_| {})
    }

    fn rootfs(&self, info: &ImageInfo) -> PathBuf {
        self.dir.join(format!("images/plain/{}/rootfs", info.image.digest))
    }

    /// A root with one more member, wicked or not.
    fn with(&self, name: &str, kind: EntryType, content: &[u8], link: &str) -> Result<ImageInfo, Step> {
        let mut tar = builder();
        append(&mut tar, name, kind, content, link);
        self.import(&tar.into_inner().unwrap())
    }

    /// A refused archive leaves no image, no half of one, and the world as it was.
    fn refused(&self, answer: Result<ImageInfo, Step>, why: &str) {
        let error = answer.unwrap_err();
        assert_eq!(error.kind, Kind::Refused, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        self.untouched();
        assert!(self.store.list().unwrap().is_empty());
        assert!(!self.dir.join("images/plain").exists(), "something is left");
    }

    fn untouched(&self) {
        assert_eq!(fs::read_to_string(self.dir.join("victim")).unwrap(), "untouched");
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// A valid root without its end mark.
fn builder() -> tar::Builder<Vec<u8>> {
    let mut bytes = root_tar(b"hello\n");
    bytes.truncate(bytes.len() - 1024);
    let mut tar = tar::Builder::new(bytes);
    tar.mode(tar::HeaderMode::Complete);
    tar
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_archive_becomes_an_image_named_by_its_digest_however_it_is_compressed() {
    let Some(shelf) = Shelf::new() else { return };
    let plain = root_tar(b"hello\n");
    for archive in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 3).unwrap()] {
        let info = shelf.import(&archive).unwrap();
        assert_eq!(info.image.digest, hex(&archive));
        let root = shelf.rootfs(&info);
        assert_eq!(fs::read_to_string(root.join("etc/motd")).unwrap(), "hello\n");
        assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
        assert_eq!(fs::metadata(root.join("usr/bin/tool")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(fs::metadata(root.join("etc")).unwrap().mtime(), 1_700_000_000);
    }
    assert_eq!(shelf.store.list().unwrap().len(), 3);
}

#[test]
fn the_image_imported_last_is_the_newest_even_when_it_was_there_before() {
    let Some(shelf) = Shelf::new() else { return };
    let first = shelf.import(&root_tar(b"one")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(3));
    let second = shelf.import(&root_tar(b"two")).unwrap();
    assert_eq!(shelf.store.newest(&shelf.name).unwrap().unwrap(), second.image);
    std::thread::sleep(std::time::Duration::from_millis(3));
    shelf.import(&root_tar(b"one")).unwrap();
    assert_eq!(shelf.store.newest(&shelf.name).unwrap().unwrap(), first.image);
    assert_eq!(shelf.store.list().unwrap().len(), 2);
}

#[test]
fn owners_modes_links_and_capabilities_come_through() {
    let Some(shelf) = Shelf::new() else { return };
    let mut tar = builder();
    let mut header = tar::Header::new_ustar();
    header.set_path("usr/bin/sudo").unwrap();
    header.set_mode(0o4755);
    header.set_uid(12);
    header.set_gid(34);
    header.set_mtime(1_600_000_000);
    header.set_size(3);
    header.set_cksum();
    // CAP_NET_RAW, effective, revision 2.
    let capability: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let attributes = [
        ("SCHILY.xattr.security.capability", capability.as_slice()),
        ("SCHILY.xattr.user.note", b"kept"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.wharf", b"{}"),
    ];
    tar.append_pax_extensions(attributes).unwrap();
    tar.append(&header, b"abc".as_slice()).unwrap();
    append(&mut tar, "usr/bin/same", EntryType::Link, b"", "usr/bin/sudo");
    append(&mut tar, "run", EntryType::Directory, b"", "");
    append(&mut tar, "run/pipe", EntryType::Fifo, b"", "");
    let long = format!("usr/{}/{}", "d".repeat(120), "f".repeat(200));
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o640);
    tar.append_data(&mut header, &long, b"x".as_slice()).unwrap();
    let info = shelf.import(&tar.into_inner().unwrap()).unwrap();

    let root = shelf.rootfs(&info);
    let sudo = fs::metadata(root.join("usr/bin/sudo")).unwrap();
    assert_eq!((sudo.uid(), sudo.gid(), sudo.mode() & 0o7777, sudo.nlink()), (12, 34, 0o4755, 2));
    assert_eq!(sudo.mtime(), 1_600_000_000);
    let read = |name| {
        let mut value = [0_u8; 64];
        rustix::fs::getxattr(root.join("usr/bin/sudo"), name, &mut value[..])
            .map(|length| value[..length].to_vec())
    };
    assert_eq!(read("security.capability").unwrap(), capability);
    assert_eq!(read("user.note").unwrap(), b"kept");
    assert!(read("user.overlay.opaque").is_err() && read("trusted.wharf").is_err());
    assert_eq!(fs::read(root.join(long)).unwrap(), b"x");
    assert!(root.join("run/pipe").exists());
}

#[test]
fn names_that_lead_out_are_refused() {
    let Some(shelf) = Shelf::new() else { return };
    for name in ["../victim", "etc/../../victim", "etc/..", ".."] {
        shelf.refused(shelf.with(name, EntryType::Regular, b"pwned", ""), "leads upwards");
    }
    shelf.refused(shelf.with("/tmp/pwned", EntryType::Regular, b"pwned", ""), "absolute");
    shelf.refused(shelf.with("etc/hard", EntryType::Link, b"", "../../victim"), "links outside");
    shelf.refused(shelf.with("etc/hard", EntryType::Link, b"", "/etc/passwd"), "links outside");
    shelf.refused(shelf.with("./", EntryType::Symlink, b"", "/"), "replace the root");
}

#[test]
fn writing_through_a_link_stays_inside() {
    let Some(shelf) = Shelf::new() else { return };
    let outside = shelf.dir.to_string_lossy().into_owned();
    let mut tar = builder();
    append(&mut tar, "up", EntryType::Symlink, b"", "../../../../..");
    append(&mut tar, "up/etc/planted", EntryType::Regular, b"pwned", "");
    append(&mut tar, "root", EntryType::Symlink, b"", "/usr");
    append(&mut tar, "root/planted", EntryType::Regular, b"pwned", "");
    append(&mut tar, "etc/victim", EntryType::Symlink, b"", &format!("{outside}/victim"));
    append(&mut tar, "etc/victim", EntryType::Regular, b"pwned", "");
    let info = shelf.import(&tar.into_inner().unwrap()).unwrap();
    shelf.untouched();
    assert!(!Path::new("/etc/planted").exists() && !Path::new("/usr/planted").exists());
    let root = shelf.rootfs(&info);
    for path in ["etc/planted", "usr/planted", "etc/victim"] {
        assert_eq!(fs::read(root.join(path)).unwrap(), b"pwned");
    }
    assert!(!fs::symlink_metadata(root.join("etc/victim")).unwrap().is_symlink());
}

#[test]
fn a_link_that_leads_nowhere_in_the_image_is_not_written_through() {
    let Some(shelf) = Shelf::new() else { return };
    for target in [shelf.dir.to_string_lossy().into_owned(), "self".to_owned()] {
        let mut tar = builder();
        append(&mut tar, "self", EntryType::Symlink, b"", &target);
        append(&mut tar, "self/victim", EntryType::Regular, b"pwned", "");
        shelf.refused(shelf.import(&tar.into_inner().unwrap()), "leads nowhere");
    }
    shelf.refused(shelf.with("etc/motd/victim", EntryType::Regular, b"pwned", ""), "no directory");
}

#[test]
fn a_hard_link_through_a_link_stays_inside() {
    let Some(shelf) = Shelf::new() else { return };
    let mut tar = builder();
    append(&mut tar, "out", EntryType::Symlink, b"", &shelf.dir.to_string_lossy());
    append(&mut tar, "etc/stolen", EntryType::Link, b"", "out/victim");
    let answer = shelf.import(&tar.into_inner().unwrap());
    assert!(answer.is_err());
    assert_eq!(fs::metadata(shelf.dir.join("victim")).unwrap().nlink(), 1);
}

#[test]
fn device_nodes_are_left_out() {
    let Some(shelf) = Shelf::new() else { return };
    for kind in [EntryType::Char, EntryType::Block] {
        let info = shelf.with("etc/disk", kind, b"", "").unwrap();
        assert!(!shelf.rootfs(&info).join("etc/disk").exists());
    }
}

#[test]
fn names_of_any_length_are_refused_without_being_held() {
    let Some(shelf) = Shelf::new() else { return };
    let mut tar = builder();
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
    header.set_entry_type(EntryType::GNULongName);
    // The header alone claims it: nobody sends that much before being refused.
    header.set_size(1 << 40);
    header.set_cksum();
    tar.append(&header, std::io::empty()).unwrap();
    shelf.refused(shelf.import(&tar.into_inner().unwrap()), "a name of");
    let mut tar = builder();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(1 << 30);
    header.set_cksum();
    tar.append(&header, std::io::empty()).unwrap();
    shelf.refused(shelf.import(&tar.into_inner().unwrap()), "a pax header of");
    let long = "x".repeat(300);
    let mut tar = builder();
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    tar.append_data(&mut header, format!("etc/{long}"), std::io::empty()).unwrap();
    shelf.refused(shelf.import(&tar.into_inner().unwrap()), "too long");
}

#[test]
fn an_archive_cut_off_anywhere_is_refused() {
    let Some(shelf) = Shelf::new() else { return };
    let plain = root_tar(b"hello\n");
    for archive in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 3).unwrap()] {
        // The last bytes are the end mark's second block, which readers do not need.
        let last = if archive.len() == plain.len() { archive.len() - 1024 } else { archive.len() - 1 };
        for keep in (1..last).step_by(97).chain([last]) {
            let answer = shelf.import(&archive[..keep]);
            assert!(answer.is_err(), "{keep} of {} bytes were taken for an image", archive.len());
            assert_eq!(answer.unwrap_err().kind, Kind::Refused);
        }
    }
    assert!(shelf.store.list().unwrap().is_empty());
}

#[test]
fn what_is_no_root_file_system_is_refused() {
    let Some(shelf) = Shelf::new() else { return };
    shelf.refused(shelf.import(b""), "empty");
    shelf.refused(shelf.import(&[b'x'; 4096]), "checksum");
    shelf.refused(shelf.import(b"\xfd7zXZ\0 and so on"), "xz is not supported");
    shelf.refused(shelf.import(&[0; 1024]), "no root filesystem");
    let mut damaged = root_tar(b"hello\n");
    damaged[100] ^= 1;
    shelf.refused(shelf.import(&damaged), "checksum");
    let mut tar = builder();
    let mut header = tar::Header::new_gnu();
    header.set_path("etc/foreign").unwrap();
    header.set_uid(100_000);
    header.set_size(0);
    header.set_cksum();
    tar.append(&header, std::io::empty()).unwrap();
    shelf.refused(shelf.import(&tar.into_inner().unwrap()), "owner id 100000");
}

#[test]
fn progress_reaches_the_whole() {
    let Some(shelf) = Shelf::new() else { return };
    let path = shelf.dir.join("archive");
    fs::write(&path, root_tar(&vec![7; 20 << 20])).unwrap();
    let mut seen = Vec::new();
    shelf
        .store
        .import(&shelf.name, File::open(&path).unwrap(), &mut |progress| {
            if let Progress::Bytes { done, total } = progress {
                seen.push((done, total));
            }
        })
        .unwrap();
    assert!(seen.len() >= 3 && seen.is_sorted(), "{seen:?}");
    let &(done, total) = seen.last().unwrap();
    assert_eq!(done, total);
}

/// An image archive of layers, as `(name, content)`; in each layer, `None` is a directory.
struct Layers(Vec<Vec<u8>>);

impl Layers {
    fn new(layers: &[&[(&str, Option<&str>)]]) -> Self {
        Self(
            layers
                .iter()
                .map(|members| {
                    let mut tar = tar::Builder::new(Vec::new());
                    for (name, content) in *members {
                        match content {
                            Some(content) => {
                                append(&mut tar, name, EntryType::Regular, content.as_bytes(), "");
                            }
                            None => append(&mut tar, name, EntryType::Directory, b"", ""),
                        }
                    }
                    tar.into_inner().unwrap()
                })
                .collect(),
        )
    }

    /// As an OCI image layout, the layers compressed.
    fn oci(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "oci-layout", EntryType::Regular, br#"{"imageLayoutVersion":"1.0.0"}"#, "");
        let mut list = Vec::new();
        for layer in &self.0 {
            let blob = gzip(layer);
            append(&mut tar, &format!("blobs/sha256/{}", hex(&blob)), EntryType::Regular, &blob, "");
            list.push(serde_json::json!({"digest": format!("sha256:{}", hex(&blob)), "size": blob.len()}));
        }
        let manifest = serde_json::json!({"schemaVersion": 2, "layers": list}).to_string();
        append(
            &mut tar,
            &format!("blobs/sha256/{}", hex(manifest.as_bytes())),
            EntryType::Regular,
            manifest.as_bytes(),
            "",
        );
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"digest": format!("sha256:{}", hex(manifest.as_bytes())), "size": manifest.len()}]});
        append(&mut tar, "index.json", EntryType::Regular, index.to_string().as_bytes(), "");
        tar.into_inner().unwrap()
    }

    /// As `docker save` writes it.
    fn saved(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut names = Vec::new();
        for (number, layer) in self.0.iter().enumerate() {
            names.push(format!("{number}/layer.tar"));
            append(&mut tar, &names[number], EntryType::Regular, layer, "");
        }
        let manifest =
            serde_json::json!([{"Config": "c.json", "RepoTags": ["x:y"], "Layers": names}]).to_string();
        append(&mut tar, "manifest.json", EntryType::Regular, manifest.as_bytes(), "");
        tar.into_inner().unwrap()
    }
}

#[test]
fn layers_are_laid_over_each_other_with_their_whiteouts() {
    let Some(shelf) = Shelf::new() else { return };
    let layers = Layers::new(&[
        &[
            ("etc/", None),
            ("usr/", None),
            ("etc/gone", Some("1")),
            ("etc/changed", Some("1")),
            ("etc/kept", Some("1")),
        ],
        &[
            ("var/", None),
            ("var/a", Some("1")),
            ("var/b/", None),
            ("var/b/c", Some("1")),
            ("usr/dir/x", Some("1")),
        ],
        &[
            ("etc/.wh.gone", Some("")),
            ("etc/changed", Some("2")),
            ("var/new", Some("2")),
            ("var/.wh..wh..opq", Some("")),
            ("usr/.wh.dir", Some("")),
            ("usr/dir", Some("a file now")),
        ],
    ]);
    for archive in [layers.oci(), layers.saved()] {
        let info = shelf.import(&archive).unwrap();
        assert_eq!(info.image.digest, hex(&archive));
        let root = shelf.rootfs(&info);
        assert!(!root.join("etc/gone").exists() && !root.join("etc/.wh.gone").exists());
        assert_eq!(fs::read_to_string(root.join("etc/changed")).unwrap(), "2");
        assert_eq!(fs::read_to_string(root.join("etc/kept")).unwrap(), "1");
        assert!(!root.join("var/a").exists() && !root.join("var/b").exists());
        assert_eq!(fs::read_to_string(root.join("var/new")).unwrap(), "2");
        assert_eq!(fs::read_to_string(root.join("usr/dir")).unwrap(), "a file now");
    }
}

#[test]
fn a_damaged_or_wicked_image_archive_is_refused() {
    let Some(shelf) = Shelf::new() else { return };
    let layers = Layers::new(&[&[("etc/", None), ("usr/", None), ("etc/x", Some("1"))]]);
    let mut archive = layers.oci();
    // Within the first layer's content: its name no longer fits it.
    archive[512 * 3 + 40] ^= 1;
    shelf.refused(shelf.import(&archive), "damaged");
    let wicked = Layers::new(&[&[("etc/", None), ("usr/", None), ("etc/.wh...", Some(""))]]);
    shelf.refused(shelf.import(&wicked.saved()), "whiteout");
    let wicked = Layers::new(&[&[("etc/", None), ("usr/", None), ("../victim", Some("pwned"))]]);
    shelf.refused(shelf.import(&wicked.oci()), "leads upwards");
}
