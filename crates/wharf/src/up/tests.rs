#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use super::child::*;
use super::lock::Lock;
use super::*;

#[test]
fn a_second_start_on_the_same_directory_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let all = BTreeSet::from(Role::ALL);
    let held = Lock::take(dir.path(), &all).unwrap();
    let refused = Lock::take(dir.path(), &all).unwrap_err().to_string();
    assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
    assert!(refused.contains("--data-dir"), "{refused}");
    drop(held);
    Lock::take(dir.path(), &all).unwrap();
}

#[test]
fn a_jailer_and_the_rest_may_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _jailer = Lock::take(dir.path(), &BTreeSet::from([Role::Jailer])).unwrap();
    let _rest = Lock::take(dir.path(), &BTreeSet::from([Role::Server, Role::Operator])).unwrap();
    assert!(Lock::take(dir.path(), &BTreeSet::from([Role::Server])).is_err());
}

#[test]
fn settings_travel_to_a_child_whole() {
    let settings = Settings { database_url: Some("postgres://u:canary@h/d".into()), ..Settings::default() };
    let bytes = handover(&settings).unwrap();
    let taken: Handover = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(taken.keeper, std::process::id());
    let again = wharf_chassis::settings::take_over(&serde_json::to_vec(&taken.settings).unwrap()).unwrap();
    assert_eq!(again, settings);
}

#[test]
fn reports_are_one_line_each() {
    for report in [
        Report::Ready { address: Some(([127, 0, 0, 1], 7878).into()) },
        Report::Admin { name: "admin".into(), password: "line\nbreak".into() },
        Report::Failed { reason: "no".into() },
    ] {
        let line = serde_json::to_string(&report).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }
}

#[test]
fn the_first_password_is_kept_where_only_its_owner_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("initial-admin-password");
    std::fs::write(&file, "an older one").unwrap();
    // Test output is no terminal, or is captured: either way the file is what counts.
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return;
    }
    hand_out_password("admin", "s3cret", &file).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "s3cret\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_directory_in_the_way_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keys"), "").unwrap();
    let settings = Settings { data_dir: dir.path().to_owned(), ..Settings::default() };
    let account = Account {
        name: "me".into(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    };
    let error = format!("{:#}", place::make_directories(&settings, Some(&account)).unwrap_err());
    assert!(error.contains("keys"), "{error}");
}
