use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use bytes::Bytes;
use futures_util::StreamExt as _;
use wharf_domain::Code;

use crate::harness::{Host, code, refused};

fn stream(archive: Vec<u8>) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static {
    let chunks: Vec<io::Result<Bytes>> =
        archive.chunks(1000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    futures_util::stream::iter(chunks)
}

fn header(kind: u8, name: &[u8], size: u64, link: &[u8]) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let raw = header.as_mut_bytes();
    raw[..name.len()].copy_from_slice(name);
    raw[157..157 + link.len()].copy_from_slice(link);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header.set_cksum();
    header
}

/// Type, name, content, link.
type Member<'a> = (u8, &'a [u8], &'a [u8], &'a [u8]);

/// An archive as hostile as it likes: names are taken as they are.
fn archive(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, name, content, link) in members {
        out.write_all(header(*kind, name, content.len() as u64, link).as_bytes()).unwrap();
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

#[tokio::test]
async fn a_tree_goes_out_and_comes_back_the_same() {
    let host = Host::start().await;
    let from = host.home().join("tree");
    let deep = "a-rather-long-directory-name-".repeat(4);
    std::fs::create_dir_all(from.join(&deep).join(&deep)).unwrap();
    std::fs::write(from.join(&deep).join(&deep).join("leaf"), vec![7_u8; 200_000]).unwrap();
    std::fs::write(from.join("run.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(from.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(from.join("empty"), "").unwrap();
    symlink("run.sh", from.join("link")).unwrap();
    symlink("/nowhere/at/all", from.join("dangling")).unwrap();
    std::fs::create_dir(from.join("bare")).unwrap();

    let packed = host.client.read_tar("/home/agent/tree").await.unwrap();
    let packed = packed.map(|c| c.map_err(io::Error::other));
    let done = host.client.write_tar("/home/agent/copy", None, true, packed).await.unwrap();
    assert_eq!(done.members, 8);
    let same = std::process::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([&from, &host.home().join("copy")])
        .output()
        .unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    let mode = std::fs::metadata(host.home().join("copy/run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(std::fs::read_link(host.home().join("copy/dangling")).unwrap(), Path::new("/nowhere/at/all"));

    let again = host.client.read_tar("/home/agent/copy").await.unwrap().map(|c| c.map_err(io::Error::other));
    host.client.write_tar("/home/agent/copy", None, false, again).await.unwrap();
}

#[tokio::test]
async fn one_file_is_packed_under_its_name_and_others_programs_read_it() {
    let host = Host::start().await;
    std::fs::write(host.home().join("note"), "hi").unwrap();
    let packed = host.client.read_tar("/home/agent/note").await.unwrap().collect(1 << 20).await.unwrap();
    let file = host.root().join("x.tar");
    std::fs::write(&file, packed).unwrap();
    let list = std::process::Command::new("tar").arg("xOf").arg(&file).arg("note").output().unwrap();
    assert_eq!(list.stdout, b"hi");
    assert_eq!(code(host.client.read_tar("/home/agent/none").await), Code::NotFound);
}

#[tokio::test]
async fn what_gnu_and_posix_tar_make_is_unpacked() {
    let host = Host::start().await;
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(150));
    std::fs::create_dir_all(dir.path().join("d".repeat(120))).unwrap();
    std::fs::write(dir.path().join(&long), "long").unwrap();
    std::fs::hard_link(dir.path().join(&long), dir.path().join("hard")).unwrap();
    for format in ["gnu", "posix", "ustar"] {
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(dir.path()).arg(format!("--format={format}")).args(["-cf", "-", "."]);
        let made = tar.output().unwrap();
        if format == "ustar" {
            continue; // cannot name it; tar itself says so
        }
        assert!(made.status.success());
        let target = format!("/home/agent/{format}");
        host.client.write_tar(&target, None, true, stream(made.stdout)).await.unwrap();
        assert_eq!(std::fs::read(host.home().join(format).join(&long)).unwrap(), b"long");
        assert_eq!(std::fs::read(host.home().join(format).join("hard")).unwrap(), b"long");
    }
}

#[tokio::test]
async fn a_member_that_would_leave_the_target_is_refused_and_named() {
    let host = Host::start().await;
    std::fs::create_dir(host.root().join("t")).unwrap();
    let cases: [(&str, Vec<u8>); 8] = [
        ("..", archive(&[(b'0', b"../evil", b"x", b"")])),
        ("..", archive(&[(b'0', b"a/../../evil", b"x", b"")])),
        ("absolute", archive(&[(b'0', b"/evil", b"x", b"")])),
        ("a/evil", archive(&[(b'2', b"a", b"", b".."), (b'0', b"a/evil", b"x", b"")])),
        ("b/evil", archive(&[(b'2', b"b", b"", b"/home"), (b'0', b"b/evil", b"x", b"")])),
        ("target", archive(&[(b'1', b"h", b"", b"../secret")])),
        ("devices", archive(&[(b'3', b"null", b"", b"")])),
        ("FIFO", archive(&[(b'6', b"fifo", b"", b"")])),
    ];
    std::fs::write(host.root().join("secret"), "s").unwrap();
    for (word, archive) in cases {
        let fault = refused(host.client.write_tar("/t", None, false, stream(archive)).await);
        assert!(fault.detail.contains(word), "{word}: {}", fault.detail);
    }
    for evil in ["evil", "home/evil", "t/h", "home/agent/evil"] {
        assert!(!host.root().join(evil).exists(), "{evil}");
    }
    let secret = archive(&[(b'2', b"s", b"", b"../secret"), (b'0', b"s", b"overwritten", b"")]);
    host.client.write_tar("/t", None, false, stream(secret)).await.unwrap();
    assert_eq!(
        std::fs::read(host.root().join("secret")).unwrap(),
        b"s",
        "a link in the way is replaced, not followed"
    );
    assert_eq!(std::fs::read(host.root().join("t/s")).unwrap(), b"overwritten");
}

#[tokio::test]
async fn an_archive_that_is_none_or_breaks_off_is_refused() {
    let host = Host::start().await;
    let garbage = host.client.write_tar("/home", None, false, stream(vec![b'x'; 5000])).await;
    assert_eq!(code(garbage), Code::BadRequest);
    let mut cut = archive(&[(b'0', b"f", &[b'y'; 4000], b"")]);
    cut.truncate(2000);
    assert_eq!(code(host.client.write_tar("/home", None, false, stream(cut)).await), Code::BadRequest);
    let huge = header(b'L', b"././@LongLink", 1 << 40, b"").as_bytes().to_vec();
    let huge = [huge, vec![b'n'; 1 << 20]].concat();
    let fault = refused(host.client.write_tar("/home", None, false, stream(huge)).await);
    assert!(fault.detail.contains("64 KiB"), "a name of a terabyte is not read: {}", fault.detail);
    assert_eq!(code(host.client.write_tar("/none", None, false, stream(archive(&[]))).await), Code::NotFound);
}

#[tokio::test]
async fn a_large_refused_archive_still_gets_its_reason() {
    let host = Host::start().await;
    let mut big = archive(&[(b'0', b"../evil", b"x", b"")]);
    big.resize(20 << 20, 0);
    let fault = refused(host.client.write_tar("/home", None, false, stream(big)).await);
    assert_eq!(fault.code, Code::InvalidField);
}
