use serde_json::json;

use super::*;

#[test]
fn in_a_turn_it_is_who_was_addressed_and_outside_of_one_it_may_be_anybody() {
    let agent = |name: &str| json!({"kind": "shell", "name": name});
    let all = || vec![agent("a"), agent("b"), agent("c")];
    let is = |running, to: Option<&str>, handed: &[&str]| {
        let handed: Vec<String> = handed.iter().map(ToString::to_string).collect();
        who(agent("a"), all(), running, to, &handed)
    };
    assert_eq!(is(false, None, &[]), ["a", "b", "c", "shell"]);
    assert_eq!(is(true, None, &[]), ["a", "shell"], "the default one");
    assert_eq!(is(true, Some("b"), &[]), ["b", "shell"]);
    assert_eq!(is(true, Some("b"), &["c"]), ["b", "c", "shell"]);
    assert_eq!(is(true, Some("gone"), &[]), ["a", "shell"], "as the driver has it");
    assert_eq!(who(json!({"kind": "acp"}), vec![], true, None, &[]), ["acp"]);
}
