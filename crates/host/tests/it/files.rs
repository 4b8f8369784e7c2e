use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use bytes::Bytes;
use wharf_chassis::host_client::FileRange;
use wharf_domain::Code;
use wharf_wire::host::files::{ChangeMode, ChangeOwner, FileKind, MakeDirectory, MoveFile, WriteOptions};

use crate::harness::{Host, code, refused};

async fn read(host: &Host, path: &str, range: Option<FileRange>) -> Vec<u8> {
    host.client.read_file(path, range).await.unwrap().bytes.collect(usize::MAX).await.unwrap()
}

#[tokio::test]
async fn a_file_is_written_read_and_described() {
    let host = Host::start().await;
    let options = WriteOptions { mode: Some(0o750), ..WriteOptions::default() };
    let done = host.client.write_bytes("/home/agent/hello.txt", &options, "hello").await.unwrap();
    assert_eq!((done.bytes, done.size), (5, 5));
    assert_eq!(read(&host, "/home/agent/hello.txt", None).await, b"hello");
    let info = host.client.stat("/home/agent/../agent/hello.txt", false).await.unwrap();
    assert_eq!(
        (info.name.as_str(), info.kind, info.size, info.mode),
        ("hello.txt", FileKind::File, 5, 0o750)
    );

    host.client.write_bytes("/home/agent/hello.txt", &WriteOptions::default(), "bye").await.unwrap();
    let info = host.client.stat("/home/agent/hello.txt", false).await.unwrap();
    assert_eq!((info.size, info.mode), (3, 0o750), "a rewritten file keeps its mode");

    let append = WriteOptions { append: true, ..WriteOptions::default() };
    let done = host.client.write_bytes("/home/agent/hello.txt", &append, " now").await.unwrap();
    assert_eq!((done.bytes, done.size), (4, 7));
    host.client.write_bytes("/home/agent/new.txt", &append, "x").await.unwrap();
    assert_eq!(host.client.stat("/home/agent/new.txt", false).await.unwrap().mode, 0o644);
    assert_eq!(
        host.client.write_bytes("/home/agent/empty", &WriteOptions::default(), "").await.unwrap().size,
        0
    );
    assert_eq!(read(&host, "/home/agent/empty", None).await, b"");
}

#[tokio::test]
async fn a_part_of_a_file_is_read() {
    let host = Host::start().await;
    host.client.write_bytes("/f", &WriteOptions::default(), "0123456789").await.unwrap();
    assert_eq!(read(&host, "/f", Some(FileRange::From(3, Some(5)))).await, b"345");
    assert_eq!(read(&host, "/f", Some(FileRange::From(8, None))).await, b"89");
    assert_eq!(read(&host, "/f", Some(FileRange::From(8, Some(u64::MAX)))).await, b"89");
    assert_eq!(read(&host, "/f", Some(FileRange::Last(4))).await, b"6789");
    assert_eq!(read(&host, "/f", Some(FileRange::Last(400))).await, b"0123456789");
    let part = host.client.read_file("/f", Some(FileRange::From(3, Some(5)))).await.unwrap();
    assert_eq!((part.length, part.range.as_deref()), (Some(3), Some("bytes 3-5/10")));
    assert_eq!(
        code(host.client.read_file("/f", Some(FileRange::From(10, None))).await),
        Code::RangeNotSatisfiable
    );
    assert_eq!(code(host.client.read_file("/f", Some(FileRange::Last(0))).await), Code::RangeNotSatisfiable);
    assert_eq!(code(host.client.read_file("/f", Some(FileRange::From(5, Some(3)))).await), Code::BadRequest);
}

#[tokio::test]
async fn a_large_file_streams_both_ways() {
    let host = Host::start().await;
    let chunk = Bytes::from((0..=255_u8).cycle().take(1 << 20).collect::<Vec<u8>>());
    let stream = futures_util::stream::iter(vec![chunk.clone(); 40].into_iter().map(io::Result::Ok));
    let before = host.client.stats().await.unwrap().host_rss_bytes;
    let done = host.client.write_file("/big", &WriteOptions::default(), stream).await.unwrap();
    assert_eq!(done.size, 40 << 20);
    let back = read(&host, "/big", None).await;
    assert!(back.len() == 40 << 20 && back.chunks(1 << 20).all(|c| c == chunk));
    let after = host.client.stats().await.unwrap().host_rss_bytes;
    assert!(after < before + (12 << 20), "40 MiB do not pass through memory: {before} then {after}");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_what_was_there() {
    let host = Host::start().await;
    host.client.write_bytes("/f", &WriteOptions::default(), "old").await.unwrap();
    let pieces = vec![Ok(Bytes::from(vec![b'x'; 1 << 20])), Err(io::Error::other("the sender's disk broke"))];
    let failed =
        host.client.write_file("/f", &WriteOptions::default(), futures_util::stream::iter(pieces)).await;
    assert!(failed.is_err());
    assert_eq!(read(&host, "/f", None).await, b"old");
    crate::harness::until("no scrap stays", || async {
        std::fs::read_dir(host.root())
            .unwrap()
            .all(|e| !e.unwrap().file_name().to_string_lossy().contains(".wharf-"))
    })
    .await;
}

#[tokio::test]
async fn missing_parents_are_made_when_asked_and_only_then() {
    let host = Host::start().await;
    let no = host.client.write_bytes("/a/b/c", &WriteOptions::default(), "x").await;
    assert_eq!(code(no), Code::NotFound);
    let parents = WriteOptions { parents: true, ..WriteOptions::default() };
    host.client.write_bytes("/a/b/c", &parents, "x").await.unwrap();
    let dir =
        |path: &str, parents| MakeDirectory { path: path.into(), parents, mode: Some(0o700), owner: None };
    assert_eq!(code(host.client.make_directory(&dir("/x/y", false)).await), Code::NotFound);
    host.client.make_directory(&dir("/x/y", true)).await.unwrap();
    host.client.make_directory(&dir("/x/y", true)).await.unwrap();
    assert_eq!(code(host.client.make_directory(&dir("/x/y", false)).await), Code::AlreadyExists);
    assert_eq!(code(host.client.make_directory(&dir("/", false)).await), Code::AlreadyExists);
    assert_eq!(host.client.stat("/x/y", false).await.unwrap().mode, 0o700);
}

#[tokio::test]
async fn a_directory_is_read_page_by_page() {
    let host = Host::start().await;
    for i in 0..25 {
        std::fs::write(host.root().join(format!("home/agent/f{i:02}")), "x").unwrap();
    }
    symlink("f00", host.home().join("link")).unwrap();
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = host.client.list_files("/home/agent", after.as_deref(), Some(10)).await.unwrap();
        names.extend(page.entries.iter().map(|e| e.name.clone()));
        after = page.next;
        if after.is_none() {
            let link = page.entries.last().unwrap();
            assert_eq!((link.kind, link.target.as_deref()), (FileKind::Symlink, Some("f00")));
            break;
        }
        assert_eq!(page.entries.len(), 10);
    }
    assert_eq!(names.len(), 26);
    assert!(names.is_sorted());
    assert_eq!(code(host.client.list_files("/home/agent/f00", None, None).await), Code::InvalidState);
    assert_eq!(code(host.client.list_files("/none", None, None).await), Code::NotFound);
    assert_eq!(code(host.client.list_files("/", None, Some(0)).await), Code::InvalidField);
}

#[tokio::test]
async fn names_that_are_no_text_are_paged_over_and_told() {
    use std::os::unix::ffi::OsStrExt as _;
    let host = Host::start().await;
    for name in [&b"a%41"[..], b"b\xff", b"c\xff", b"d", b"e f"] {
        std::fs::write(host.home().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let (mut names, mut after) = (Vec::new(), None);
    for _ in 0..5 {
        let page = host.client.list_files("/home/agent", after.as_deref(), Some(1)).await.unwrap();
        let entry = page.entries[0].clone();
        names.push(entry.name_b64.map_or(entry.name.into_bytes(), |b| b.0));
        after = page.next;
    }
    assert_eq!((names.concat(), after), (b"a%41b\xffc\xffde f".to_vec(), None));
}

#[tokio::test]
async fn things_are_moved_and_nothing_is_run_over_unasked() {
    let host = Host::start().await;
    host.client.write_bytes("/a", &WriteOptions::default(), "a").await.unwrap();
    host.client.write_bytes("/b", &WriteOptions::default(), "b").await.unwrap();
    let to = |from: &str, to: &str, overwrite| MoveFile { from: from.into(), to: to.into(), overwrite };
    assert_eq!(code(host.client.move_file(&to("/a", "/b", false)).await), Code::AlreadyExists);
    host.client.move_file(&to("/a", "/b", true)).await.unwrap();
    assert_eq!(read(&host, "/b", None).await, b"a");
    assert_eq!(code(host.client.move_file(&to("/a", "/c", false)).await), Code::NotFound);
    assert_eq!(
        refused(host.client.move_file(&to("/home", "/home/agent/x", false)).await).field.as_deref(),
        Some("to")
    );
}

#[tokio::test]
async fn deleting_a_tree_takes_a_word_and_never_follows_a_link() {
    let host = Host::start().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("precious"), "x").unwrap();
    std::fs::create_dir_all(host.root().join("d/e/f")).unwrap();
    std::fs::write(host.root().join("d/e/g"), "x").unwrap();
    symlink(outside.path(), host.root().join("d/e/out")).unwrap();
    symlink("/home", host.root().join("d/e/home")).unwrap();
    let no = refused(host.client.delete_file("/d", false).await);
    assert_eq!(no.code, Code::InvalidState);
    assert_eq!(host.client.delete_file("/d", true).await.unwrap().entries, 6);
    assert!(outside.path().join("precious").exists() && host.home().exists());
    assert_eq!(code(host.client.delete_file("/d", true).await), Code::NotFound);
    assert_eq!(code(host.client.delete_file("/", true).await), Code::InUse);
}

#[tokio::test]
async fn links_that_point_out_of_the_root_lead_back_into_it() {
    let host = Host::start().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    symlink(outside.path(), host.root().join("out")).unwrap();
    symlink("../../../../../../../../../../etc", host.root().join("up")).unwrap();
    symlink("/etc/passwd", host.root().join("passwd")).unwrap();
    symlink(outside.path().join("secret"), host.root().join("written")).unwrap();
    for path in ["/out/secret", "/up/passwd", "/passwd"] {
        assert_eq!(code(host.client.read_file(path, None).await), Code::NotFound, "{path}");
    }
    assert_eq!(code(host.client.list_files("/out", None, None).await), Code::NotFound);
    assert_eq!(
        code(host.client.write_bytes("/out/new", &WriteOptions::default(), "x").await),
        Code::NotFound
    );
    assert_eq!(
        code(host.client.write_bytes("/written", &WriteOptions::default(), "x").await),
        Code::NotFound
    );
    assert_eq!(
        code(host.client.change_mode(&ChangeMode { path: "/written".into(), mode: 0o777 }).await),
        Code::NotFound
    );
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"s");
    assert!(!outside.path().join("new").exists());
    // `..` in a request stops at the root too.
    assert_eq!(code(host.client.read_file("/../../../../etc/passwd", None).await), Code::NotFound);
}

#[tokio::test]
async fn writing_through_a_link_changes_what_it_points_to() {
    let host = Host::start().await;
    host.client.write_bytes("/home/agent/real", &WriteOptions::default(), "old").await.unwrap();
    symlink("/home/agent/real", host.root().join("link")).unwrap();
    host.client.write_bytes("/link", &WriteOptions::default(), "new").await.unwrap();
    assert_eq!(std::fs::read(host.home().join("real")).unwrap(), b"new");
    assert_eq!(host.client.stat("/link", false).await.unwrap().kind, FileKind::Symlink);
    assert_eq!(host.client.stat("/link", true).await.unwrap().size, 3);
    symlink("loop", host.root().join("loop")).unwrap();
    assert_eq!(
        code(host.client.write_bytes("/loop", &WriteOptions::default(), "x").await),
        Code::InvalidState
    );
}

#[tokio::test]
async fn modes_and_owners_are_changed() {
    let host = Host::start().await;
    host.client.write_bytes("/f", &WriteOptions::default(), "x").await.unwrap();
    host.client.change_mode(&ChangeMode { path: "/f".into(), mode: 0o600 }).await.unwrap();
    assert_eq!(std::fs::metadata(host.root().join("f")).unwrap().permissions().mode() & 0o7777, 0o600);
    let bad = ChangeMode { path: "/f".into(), mode: 0o17777 };
    assert_eq!(refused(host.client.change_mode(&bad).await).field.as_deref(), Some("mode"));
    let unknown = ChangeOwner { path: "/f".into(), owner: "nobody-here".into(), recursive: false };
    assert_eq!(refused(host.client.change_owner(&unknown).await).field.as_deref(), Some("owner"));
    let meta = std::fs::metadata(host.root().join("f")).unwrap();
    let mine =
        ChangeOwner { path: "/".into(), owner: format!("{}:{}", meta.uid(), meta.gid()), recursive: true };
    assert_eq!(
        code(host.client.change_owner(&mine).await),
        Code::InUse,
        "the root itself is not for the taking"
    );
    let mine = ChangeOwner { path: "/home".into(), ..mine };
    host.client.change_owner(&mine).await.unwrap();
}

#[tokio::test]
async fn what_is_no_regular_file_is_not_read_or_written() {
    let host = Host::start().await;
    assert!(std::process::Command::new("mkfifo").arg(host.root().join("fifo")).status().unwrap().success());
    for result in [
        code(host.client.read_file("/fifo", None).await),
        code(host.client.read_file("/home", None).await),
        code(host.client.write_bytes("/fifo", &WriteOptions::default(), "x").await),
        code(host.client.write_bytes("/home", &WriteOptions::default(), "x").await),
    ] {
        assert_eq!(result, Code::InvalidState);
    }
    assert_eq!(host.client.stat("/fifo", false).await.unwrap().kind, FileKind::Fifo);
    assert_eq!(host.client.stat("/", false).await.unwrap().name, "/");
}
