#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn what_git_says_is_read_line_by_line() {
    let (a, b) = ("0".repeat(40), "1".repeat(40));
    let text = format!("{a} {b} refs/heads/main\n{b} {a} refs/tags/v 1\n");
    let all = updates(text.as_bytes()).unwrap();
    assert_eq!(all.len(), 2);
    assert!(all[0].creates() && all[0].name == "refs/heads/main");
    // What git would not allow is carried as it is: the server judges.
    assert_eq!(all[1].name, "refs/tags/v 1");
    assert!(updates(b"one word\n").is_err());
    assert!(updates(b"a b \xff\n").is_err());
    assert!(updates(b"").unwrap().is_empty());
}

#[test]
fn a_question_survives_its_line() {
    let ask = Ask {
        push: PushId::new(),
        hook: "pre-receive".into(),
        quarantine: Some("/a/b\nc".into()),
        updates: vec![RefUpdate { name: "refs/heads/ü\n".into(), old: "0".into(), new: "1".into() }],
    };
    let line = serde_json::to_string(&ask).unwrap();
    assert!(!line.contains('\n'));
    let again: Ask = serde_json::from_str(&line).unwrap();
    assert_eq!(again.updates, ask.updates);
    assert_eq!(again.quarantine, ask.quarantine);
}
