#![allow(clippy::unwrap_used)]

use wharf_domain::rbac::{Grant, built_in_roles};

use super::*;

fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> Rule {
    let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
    Rule { groups: own(groups), resources: own(resources), names: own(names), verbs: own(verbs) }
}

fn role(name: &str, space: Option<SpaceId>) -> Rights {
    let rules = built_in_roles().into_iter().find(|(n, _)| *n == name).unwrap().1;
    Rights { grants: vec![Grant { binding: "b".into(), role: name.into(), space, rules }], subset: None }
}

#[test]
fn an_admin_holds_every_role_and_nobody_else_holds_admin() {
    let admin = role("admin", None);
    for (name, _) in built_in_roles() {
        assert!(covers_all(&admin, &role(name, None)), "{name}");
        assert_eq!(covers_all(&role(name, None), &admin), name == "admin", "{name}");
    }
}

#[test]
fn rights_in_one_space_do_not_reach_another_or_all() {
    let (a, b) = (SpaceId::new(), SpaceId::new());
    let developer = role("developer", Some(a));
    assert!(covers_all(&developer, &role("developer", Some(a))));
    assert!(!covers_all(&developer, &role("developer", Some(b))));
    assert!(!covers_all(&developer, &role("developer", None)));
    assert!(covers_all(&role("developer", None), &developer));
}

#[test]
fn a_named_rule_covers_those_names_only() {
    let own = Rights {
        grants: vec![Grant {
            binding: "b".into(),
            role: "r".into(),
            space: None,
            rules: vec![rule(&["core"], &["secrets"], &["db", "mail"], &["get"])],
        }],
        subset: None,
    };
    assert!(covers(&own, None, &rule(&["core"], &["secrets"], &["db"], &["get"])));
    assert!(!covers(&own, None, &rule(&["core"], &["secrets"], &["db", "other"], &["get"])));
    assert!(!covers(&own, None, &rule(&["core"], &["secrets"], &[], &["get"])));
    assert!(!covers(&own, None, &rule(&["core"], &["secrets"], &["*"], &["get"])));
    assert!(!covers(&own, None, &rule(&["core"], &["secrets"], &["db"], &["*"])));
}

#[test]
fn a_token_subset_narrows_what_can_be_granted_on() {
    let mut admin = role("admin", None);
    admin.subset = Some(vec![rule(&["sessions"], &["sessions"], &[], &["get"])]);
    assert!(covers(&admin, None, &rule(&["sessions"], &["sessions"], &[], &["get"])));
    assert!(!covers(&admin, None, &rule(&["sessions"], &["sessions"], &[], &["delete"])));
}

#[test]
fn everything_covered_is_also_allowed() {
    // The literal comparison must never be looser than the meaning.
    let own = role("developer", None);
    for (name, rules) in built_in_roles() {
        for r in rules.iter().filter(|r| covers(&own, None, r)) {
            for resource in Resource::ALL {
                for verb in Verb::ALL {
                    if r.allows(*resource, *verb, None) {
                        assert!(own.allows(None, *resource, *verb, None), "{name} {resource} {verb}");
                    }
                }
            }
        }
    }
}
