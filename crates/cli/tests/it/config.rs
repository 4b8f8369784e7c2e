//! The file that remembers logins.

use std::os::unix::fs::PermissionsExt as _;

use wharf_domain::Time;

use crate::{User, config_of, context, logged_in};

fn mode(user: &User) -> u32 {
    std::fs::metadata(user.store().path().unwrap()).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_missing_file_is_an_empty_one_and_what_is_written_comes_back() {
    let user = User::new();
    assert!(user.store().read().unwrap().contexts.is_empty());
    let until = Time::from_millis(1_800_000_000_123);
    user.store()
        .change(|c| {
            *c = config_of(
                "a",
                vec![("a", logged_in("http://h:1", "acc", "ref", until)), ("b.x", context("http://h:2"))],
            );
            Ok(())
        })
        .unwrap();
    let read = user.store().read().unwrap();
    assert_eq!(read.current.as_deref(), Some("a"));
    let login = read.contexts["a"].login.clone().unwrap();
    assert_eq!(
        (login.access_token.as_str(), login.refresh_token.as_str(), login.expires_at),
        ("acc", "ref", until)
    );
    assert_eq!(read.contexts["b.x"].url, "http://h:2");
}

#[test]
fn only_the_owner_may_read_it_even_if_it_was_open_before() {
    let user = User::new();
    user.store().change(|_| Ok(())).unwrap();
    assert_eq!(mode(&user), 0o600);
    std::fs::set_permissions(user.store().path().unwrap(), std::fs::Permissions::from_mode(0o644)).unwrap();
    user.store().change(|_| Ok(())).unwrap();
    assert_eq!(mode(&user), 0o600);
    let left: Vec<_> = std::fs::read_dir(user.store().path().unwrap().parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left.len(), 2, "only the file and its lock: {left:?}");
}

#[test]
fn a_damaged_file_is_named_with_its_line_and_left_alone() {
    let user = User::new();
    user.store().change(|_| Ok(())).unwrap();
    for (text, line) in [
        ("current = \"a\"\n[contexts.a\nurl = 1\n", "line 2"),
        (
            "current = \"a\"\n[contexts.a]\nurl = \"http://x\"\n[contexts.a.login]\naccess_token = \"eyJsecret\n",
            "line 5",
        ),
        ("current = \"a\"\ncurent = \"b\"\n", "line 2"),
    ] {
        std::fs::write(user.store().path().unwrap(), text).unwrap();
        let error = user.store().read().err().unwrap().to_string();
        assert!(error.contains("config.toml") && error.contains(line), "{error}");
        assert!(!error.contains("eyJsecret"), "a token is in the error: {error}");
        assert!(user.store().change(|_| Ok(())).is_err());
        assert_eq!(std::fs::read_to_string(user.store().path().unwrap()).unwrap(), text);
    }
}

#[test]
fn changes_made_at_the_same_time_all_stay() {
    let user = User::new();
    std::thread::scope(|s| {
        for n in 0..8 {
            let store = user.store();
            s.spawn(move || {
                for m in 0..10 {
                    store
                        .change(|c| {
                            c.contexts.insert(format!("c{n}-{m}"), context("http://h"));
                            Ok(())
                        })
                        .unwrap();
                }
            });
        }
        let store = user.store();
        s.spawn(move || {
            for _ in 0..200 {
                store.read().unwrap();
            }
        });
    });
    assert_eq!(user.store().read().unwrap().contexts.len(), 80);
}
