//! The document is what the routes say, and complete.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Every operation of the document: path, method and what is said of it.
pub fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                all.push((path.clone(), method.to_owned(), operation.clone()));
            }
        }
    }
    all
}

#[test]
fn the_committed_document_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/v1.json");
    let fresh = serde_json::to_string_pretty(&wharf_server::document()).unwrap() + "\n";
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &fresh).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == fresh, "openapi/v1.json is stale: run `cargo xtask openapi` and commit it");
}

#[test]
fn every_operation_says_what_it_does_who_may_and_how_it_fails() {
    let document = wharf_server::document();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let at = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{at} has no id"));
        assert!(ids.insert(id.to_owned()), "{id} twice");
        assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{at} has no summary");
        assert!(operation["tags"].as_array().is_some_and(|t| t.len() == 1), "{at} has no tag");
        assert!(operation["x-wharf-permit"]["access"].is_string(), "{at} has no permit");
        let answers = operation["responses"].as_object().unwrap();
        assert!(answers.keys().any(|s| s.starts_with('2') || s == "101"), "{at} has no success");
        for (status, answer) in answers {
            let told =
                answer["$ref"].is_string() || answer["description"].as_str().is_some_and(|d| !d.is_empty());
            assert!(told, "{at} does not describe {status}");
            assert!(answer.get("content").is_none_or(Value::is_object), "{at} {status}");
        }
        assert!(answers.contains_key("500") && answers.contains_key("503"), "{at}");
        for name in path.split('{').skip(1).filter_map(|p| p.split('}').next()) {
            let told = operation["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["in"] == "path" && p["name"] == name);
            assert!(told, "{at} does not describe {name}");
        }
        if method == "post"
            && path.starts_with("/v1/spaces/")
            && !path.ends_with("/reveal")
            && !path.ends_with("/images")
            && !path.ends_with("/activate")
            && !path.ends_with("/build")
            && !path.contains("/ports/")
            && !path.ends_with("links")
        {
            let told =
                operation["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "Idempotency-Key");
            assert!(told, "{at} takes no Idempotency-Key");
        }
    }
    let listed: BTreeSet<String> =
        wharf_server::permits::TABLE.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(listed, ids, "the table of permits and the routes are one");
}

/// Every `$ref` leads somewhere.
#[test]
fn nothing_in_the_document_is_missing() {
    fn look(document: &Value, at: &Value) {
        match at {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    let path = to.strip_prefix('#').unwrap();
                    assert!(document.pointer(path).is_some(), "{to} leads nowhere");
                }
                map.values().for_each(|v| look(document, v));
            }
            Value::Array(items) => items.iter().for_each(|v| look(document, v)),
            _ => {}
        }
    }
    let document = wharf_server::document();
    look(&document, &document);
}

#[test]
fn requests_refuse_what_they_do_not_know_and_fields_are_explained() {
    let document = wharf_server::document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (path, method, operation) in operations(&document) {
        let Some(schema) = operation["requestBody"]["content"]["application/json"]["schema"].as_object()
        else {
            continue;
        };
        let name = schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        let schema = &schemas[name];
        let closed = |s: &Value| s["additionalProperties"] == false;
        let variants = schema["oneOf"].as_array();
        assert!(
            closed(schema) || variants.is_some_and(|v| v.iter().all(closed)),
            "{method} {path}: {name} takes fields it does not know: {schema}"
        );
    }
    for (name, schema) in schemas {
        for (field, said) in schema["properties"].as_object().into_iter().flatten() {
            let explained = said["description"].is_string()
                || said["$ref"].is_string()
                || said["oneOf"].as_array().is_some_and(|o| o.iter().any(|s| s["description"].is_string()));
            assert!(explained, "{name}.{field} is not explained: {said}");
        }
    }
}
