#![allow(clippy::unwrap_used)]
use super::*;

fn remote(text: &str) -> (String, String, bool) {
    match Side::parse(text).unwrap() {
        Side::Remote { session, at, into, .. } => (session, at.to_string(), into),
        other => panic!("{text} is {other:?}"),
    }
}

#[test]
fn a_side_is_where_it_says() {
    assert_eq!(remote("demo:x"), ("demo".into(), "/home/agent/x".into(), false));
    assert_eq!(remote("demo:"), ("demo".into(), "/home/agent".into(), true));
    assert_eq!(remote("demo:~/x/"), ("demo".into(), "/home/agent/x".into(), true));
    assert_eq!(remote("demo:/etc//./hosts"), ("demo".into(), "/etc/hosts".into(), false));
    for local in ["x", "./a:b", "dir/a:b", "/a:b", ":x"] {
        assert!(matches!(Side::parse(local).unwrap(), Side::Local(_)), "{local}");
    }
    assert_eq!(Side::parse("-").unwrap(), Side::Pipe);
}

#[test]
fn a_path_that_climbs_is_refused_and_not_rewritten() {
    let error = Side::parse("demo:/srv/../etc/passwd").unwrap_err();
    assert_eq!(crate::exit::code(&error), crate::exit::USAGE);
    assert!(error.to_string().contains(".."), "{error}");
}

#[test]
fn a_tree_is_packed_whole_with_links_as_links_and_without_what_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("a/empty")).unwrap();
    std::fs::write(dir.path().join("a/file"), b"text").unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.path().join("a/link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("a/socket")).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    pack(&mut builder, dir.path(), Path::new(""), &[]).unwrap();
    let bytes = builder.into_inner().unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let found: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|e| {
            let e = e.unwrap();
            format!("{} {:?}", e.path().unwrap().display(), e.header().entry_type())
        })
        .collect();
    assert_eq!(found, ["a Directory", "a/empty Directory", "a/file Regular", "a/link Symlink"]);
}
