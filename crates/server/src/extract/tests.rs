#![allow(clippy::unwrap_used)]

use serde::Deserialize;
use wharf_domain::Code;

use super::refuse::refuse;
use super::{json, query};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Outer {
    name: wharf_domain::Name,
    #[serde(default)]
    inner: Option<Inner>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Inner {
    memory_mib: u32,
}

fn wrong(body: &str) -> wharf_domain::Error {
    json::parse::<Outer>(body.as_bytes()).unwrap_err()
}

#[test]
fn a_field_at_fault_is_named_wherever_it_is() {
    let e = wrong(r#"{"nam": "x"}"#);
    assert_eq!((e.code, e.field.as_deref()), (Code::UnknownField, Some("nam")));
    assert!(e.public.contains("did you mean \"name\""), "{}", e.public);
    let e = wrong(r#"{"name": "x", "inner": {"memory": 1}}"#);
    assert_eq!((e.code, e.field.as_deref()), (Code::UnknownField, Some("inner.memory")));
    let e = wrong(r#"{"name": "x", "inner": {"memory_mib": "a"}}"#);
    assert_eq!((e.code, e.field.as_deref()), (Code::InvalidField, Some("inner.memory_mib")));
    let e = wrong(r#"{"name": "x", "inner": {}}"#);
    assert_eq!((e.code, e.field.as_deref()), (Code::InvalidField, Some("inner.memory_mib")));
    let e = wrong(r#"{"name": "No Name"}"#);
    assert_eq!((e.code, e.field.as_deref()), (Code::InvalidName, Some("name")));
}

#[test]
fn a_list_is_no_object_at_any_depth() {
    let e = wrong(r#"{"name": "x", "inner": [5]}"#);
    assert_eq!((e.code, e.field.as_deref()), (Code::InvalidField, Some("inner")));
    assert!(json::parse::<Outer>(br#"{"name": "x", "inner": {"memory_mib": 5}}"#).is_ok());
}

#[test]
fn what_is_no_json_is_told_where() {
    let e = wrong("{\n  \"name\": nope}");
    assert_eq!(e.code, Code::BadRequest);
    assert!(e.public.contains("line 2"), "{}", e.public);
    assert_eq!(wrong("{\"name\": \"x\"} trailing").code, Code::BadRequest);
    assert_eq!(wrong("").code, Code::BadRequest);
    assert_eq!(wrong("[1]").code, Code::InvalidField);
    assert_eq!(wrong(r#"["name", null]"#).code, Code::InvalidField);
}

#[test]
fn a_nul_is_found_and_an_escaped_backslash_before_u0000_is_none() {
    let e = json::parse::<serde_json::Value>(br#"{"a": [{"b": "x\u0000"}]}"#).unwrap_err();
    assert_eq!(e.field.as_deref(), Some("a[0].b"));
    assert!(json::parse::<serde_json::Value>(br#"{"a": "\\u0000"}"#).is_ok());
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(dead_code)]
struct Asked {
    limit: Option<u32>,
    list: super::Flag,
}

#[test]
fn parameters_are_held_to_the_same() {
    let asked: Asked = query::parse("list&limit=5").unwrap();
    assert!(asked.list.0);
    assert_eq!(asked.limit, Some(5));
    let e = query::parse::<Asked>("limt=5").unwrap_err();
    assert_eq!((e.code, e.field.as_deref()), (Code::UnknownField, Some("limt")));
    assert!(e.public.contains("parameter") && e.public.contains("did you mean \"limit\""), "{}", e.public);
    let e = query::parse::<Asked>("limit=many").unwrap_err();
    assert_eq!((e.code, e.field.as_deref()), (Code::InvalidField, Some("limit")));
    assert_eq!(query::parse::<Asked>("list=perhaps").unwrap_err().code, Code::InvalidField);
    assert_eq!(query::parse::<Asked>("list=%00").unwrap_err().code, Code::InvalidField);
}

#[test]
fn a_message_nobody_foresaw_still_names_the_field() {
    let e = refuse("a.b", "something odd");
    assert_eq!(
        (e.code, e.field.as_deref(), e.public.as_str()),
        (Code::InvalidField, Some("a.b"), "a.b: something odd")
    );
}
