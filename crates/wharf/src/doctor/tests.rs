#![allow(clippy::unwrap_used)]

use super::checks::{git, host_and_port, interpreter};
use super::*;

#[test]
fn a_database_url_gives_its_address_and_never_its_password() {
    for (url, wants) in [
        ("postgres://u:canary@db.example:6000/w", Some("db.example:6000")),
        ("postgres://u:c@nary@db/w?sslmode=require", Some("db:5432")),
        ("postgresql://localhost", Some("localhost:5432")),
        ("postgres:///w?host=/run/pg", None),
        ("postgres://%2Frun%2Fpg/w", None),
    ] {
        assert_eq!(host_and_port(url).as_deref(), wants, "{url}");
    }
}

#[test]
fn a_dynamic_program_is_told_from_a_static_one() {
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(interpreter(&own), Some(true));
    assert_eq!(interpreter(b"#!/bin/sh\n"), None);
    let mut elf = own[..0x40].to_vec();
    elf[0x38..0x3a].copy_from_slice(&[0, 0]);
    assert_eq!(interpreter(&elf), Some(false));
}

#[test]
fn a_machine_without_git_is_told_what_is_missing_and_that_the_rest_works() {
    let missing = git(Err(wharf_git::GitError::Missing("git")));
    assert_eq!(missing.verdict, Verdict::Warn);
    assert!(missing.seen.contains("git is not installed"), "{}", missing.seen);
    assert!(missing.remedy.unwrap().contains("apt install git"));
    let found = git(wharf_git::find());
    assert_eq!(found.verdict, Verdict::Ok, "{}", found.seen);
    assert!(found.seen.starts_with("git version 2."), "{}", found.seen);
}

#[test]
fn a_failure_stands_out_and_says_what_to_do() {
    let out = Out::fixed(Format::Table, None, wharf_cli::output::now);
    let shown =
        out.list_text(&[Finding::ok("clock", "fine"), Finding::fail("disk", "full", "free some")]).unwrap();
    assert!(shown.contains("FAIL") && shown.contains("free some"), "{shown}");
}
