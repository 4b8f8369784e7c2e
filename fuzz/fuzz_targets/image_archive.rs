//! Archives a stranger made, unpacked by root: whatever is in them, nothing outside the image's tree changes.
//!
//! Members are made up, headers are not (a random checksum is never right); one in eight inputs is damaged afterwards.
//! Needs root and a memory file system.
#![no_main]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tar::{EntryType, Header};
use wharf_jail::image::Store;

#[derive(Arbitrary, Debug)]
struct Archive {
    members: Vec<Member>,
    damage: Option<(u16, u8)>,
}

#[derive(Arbitrary, Debug)]
struct Member {
    name: Path,
    kind: u8,
    link: Path,
    mode: u16,
    user: u32,
    content: Vec<u8>,
    pax: Option<(Path, u8)>,
    long: bool,
}

/// Few names, so that members meet each other.
#[derive(Arbitrary, Debug)]
struct Path {
    absolute: bool,
    parts: Vec<u8>,
    raw: Option<String>,
}

impl Path {
    fn text(&self) -> String {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        const PARTS: [&str; 16] = [
            "a",
            "b",
            "c",
            "etc",
            "usr",
            "..",
            ".",
            "",
            "victim",
            ".wh.a",
            ".wh..wh..opq",
            ".wh..",
            "dev",
            "d",
            "e",
            "proc",
        ];
        let parts: Vec<&str> =
            self.parts.iter().take(6).map(|part| PARTS[usize::from(*part) % PARTS.len()]).collect();
        format!("{}{}", if self.absolute { "/" } else { "" }, parts.join("/"))
    }
}

static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = PathBuf::from(format!("/dev/shm/wharf-fuzz-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a memory file system at /dev/shm");
    fs::write(dir.join("victim"), "untouched").expect("the victim can be written");
    dir
});

fuzz_target!(|archive: Archive| {
    let dir = &*DIR;
    let store = Store::open(&dir.join("data")).expect("the store opens");
    fs::write(dir.join("archive"), bytes(&archive)).expect("the archive can be written");
    let file = File::open(dir.join("archive")).expect("and read");
    let answer = store.import(&"fuzzed".parse().expect("a name"), file, &mut |_| {});

    let mut beside: Vec<_> =
        fs::read_dir(dir).expect("the directory is there").flatten().map(|e| e.file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["archive", "data", "victim"]);
    let victim = fs::metadata(dir.join("victim")).expect("the victim is there");
    assert_eq!((victim.nlink(), victim.mode() & 0o7777, victim.uid()), (1, 0o644, 0));
    assert_eq!(fs::read(dir.join("victim")).expect("and can be read"), b"untouched");
    let images = dir.join("data/images");
    let left: Vec<_> =
        fs::read_dir(images.join("fuzzed")).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), usize::from(answer.is_ok()), "{left:?}");
    if answer.is_ok() {
        fs::remove_dir_all(images.join("fuzzed")).expect("the image can be removed");
    }
});

fn bytes(archive: &Archive) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for root in ["etc", "usr"] {
        append(&mut tar, root, EntryType::Directory, "", &[], 0o755, 0);
    }
    for member in archive.members.iter().take(24) {
        const KINDS: [EntryType; 10] = [
            EntryType::Regular,
            EntryType::Directory,
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Fifo,
            EntryType::Char,
            EntryType::Block,
            EntryType::GNUSparse,
            EntryType::XGlobalHeader,
            EntryType::Continuous,
        ];
        let (name, link) = (member.name.text(), member.link.text());
        if let Some((path, which)) = &member.pax {
            const KEYS: [&str; 8] = [
                "path",
                "linkpath",
                "size",
                "uid",
                "mtime",
                "SCHILY.xattr.user.x",
                "SCHILY.xattr.security.capability",
                "GNU.sparse.map",
            ];
            let key = KEYS[usize::from(*which) % KEYS.len()];
            tar.append_pax_extensions([(key, path.text().as_bytes())]).expect("memory");
        }
        if member.long {
            append(&mut tar, "././@LongLink", EntryType::GNULongName, "", name.as_bytes(), 0, 0);
        }
        let kind = KINDS[usize::from(member.kind) % KINDS.len()];
        append(&mut tar, &name, kind, &link, &member.content, u32::from(member.mode), member.user);
    }
    let mut bytes = tar.into_inner().expect("memory");
    if let Some((at, value)) = archive.damage.filter(|(at, _)| at % 8 == 0) {
        let at = usize::from(at) % bytes.len();
        bytes[at] = value;
    }
    bytes
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    name: &str,
    kind: EntryType,
    link: &str,
    content: &[u8],
    mode: u32,
    user: u32,
) {
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    let (name, link) = (name.as_bytes(), link.as_bytes());
    let fit = |bytes: &[u8]| bytes.len().min(100);
    old.name[..fit(name)].copy_from_slice(&name[..fit(name)]);
    old.linkname[..fit(link)].copy_from_slice(&link[..fit(link)]);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(u64::from(user % 70_000));
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content).expect("memory");
}
