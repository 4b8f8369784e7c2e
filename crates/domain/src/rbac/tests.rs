#![allow(clippy::unwrap_used)]
use super::*;

fn rights(role: &str, space: Option<SpaceId>) -> Rights {
    let rules = built_in_roles().into_iter().find(|(n, _)| *n == role).unwrap().1;
    Rights { grants: vec![Grant { binding: "b".into(), role: role.into(), space, rules }], subset: None }
}

#[test]
fn a_binding_in_one_space_says_nothing_about_another() {
    let (lab, other) = (SpaceId::new(), SpaceId::new());
    let alice = rights("developer", Some(lab));
    assert!(alice.allows(Some(lab), Resource::Sessions, Verb::Create, None));
    assert!(!alice.allows(Some(other), Resource::Sessions, Verb::Get, None));
    assert!(!alice.allows(None, Resource::Users, Verb::List, None));
}

#[test]
fn a_scoped_token_never_exceeds_its_owner_nor_its_scope() {
    let mut r = rights("viewer", None);
    r.subset = Some(vec![Rule::new(&["sessions"], &["sessions"], &["*"])]);
    assert!(r.allows(None, Resource::Sessions, Verb::Get, None));
    assert!(!r.allows(None, Resource::Sessions, Verb::Delete, None));
    assert!(!r.allows(None, Resource::Secrets, Verb::Get, None));
}

#[test]
fn a_rule_narrowed_to_names_does_not_allow_listing_or_creating_unnamed_things() {
    let r = Rule { names: vec!["one".into()], ..Rule::new(&["*"], &["*"], &["*"]) };
    assert!(r.allows(Resource::Sessions, Verb::Get, Some("one")));
    assert!(!r.allows(Resource::Sessions, Verb::Get, Some("two")));
    assert!(!r.allows(Resource::Sessions, Verb::List, None));
}

#[test]
fn a_rule_with_a_word_nobody_knows_is_refused_with_its_field() {
    let mut r = Rule::new(&["core"], &["secrets"], &["get"]);
    r.verbs.push("reveal".into());
    assert_eq!(r.validate().unwrap_err().field.as_deref(), Some("verbs"));
}

#[test]
fn every_built_in_role_is_valid_and_operator_has_no_access_rights() {
    for (_, rules) in built_in_roles() {
        for rule in rules {
            rule.validate().unwrap();
        }
    }
    assert!(!rights("operator", None).allows(None, Resource::Users, Verb::Get, None));
}
