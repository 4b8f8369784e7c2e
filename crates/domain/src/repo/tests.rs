#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn a_branch_is_named_as_git_would_have_it() {
    for good in ["main", "release/1.0", "feature/ünïcode", "a", "x@y", "v1.2.3-rc.1"] {
        assert_eq!(good.parse::<Branch>().unwrap().as_str(), good);
    }
    for bad in [
        "",
        "-x",
        "@",
        "HEAD",
        "a..b",
        "a/../b",
        "../x",
        ".x",
        "a/.x",
        "x.lock",
        "a/x.LOCK",
        "a b",
        "a\tb",
        "a~1",
        "a^",
        "a:b",
        "a?b",
        "a[b",
        "a\\b",
        "a*",
        "a/",
        "/a",
        "a//b",
        "a.",
        "a@{1}",
        "refs/heads/main",
        "a\u{0}b",
    ] {
        let refused = bad.parse::<Branch>().unwrap_err();
        assert_eq!(refused.code, Code::InvalidField, "{bad}");
    }
    assert!("x".repeat(200).parse::<Branch>().is_ok());
    assert!("x".repeat(201).parse::<Branch>().is_err());
}

#[test]
fn a_pattern_covers_what_it_says_and_no_more() {
    let covers = |pattern: &str, branch: &str| pattern.parse::<BranchPattern>().unwrap().covers(branch);
    assert!(covers("main", "main"));
    assert!(!covers("main", "main2") && !covers("main", "amain") && !covers("main", ""));
    assert!(covers("release/*", "release/1") && covers("release/*", "release/1/2"));
    assert!(!covers("release/*", "release") && !covers("release/*", "prerelease/1"));
    assert!(covers("*", "anything/at/all"));
    assert!(covers("v*-lts", "v1-lts") && !covers("v*-lts", "v1-lts-2"));
    assert!(covers("a*b*c", "abbbc") && covers("a*b*c", "aXbYc") && !covers("a*b*c", "acb"));
    // What stands before and behind the star may not be the same characters.
    assert!(!covers("ab*ba", "aba"));
}

#[test]
fn an_update_knows_what_it_does() {
    let update =
        |old: &str, new: &str| RefUpdate { name: "refs/heads/x".into(), old: old.into(), new: new.into() };
    let (zero, one) = ("0".repeat(40), "1".repeat(40));
    assert!(update(&zero, &one).creates() && !update(&zero, &one).deletes());
    assert!(update(&one, &zero).deletes() && !update(&one, &zero).creates());
    assert_eq!(update(&one, &zero).branch(), Some("x"));
}
