//! The API's description of itself (OpenAPI 3.1).
//!
//! Handlers say what is particular to them; what holds everywhere is added here: path parameters, problem answers,
//! `Idempotency-Key`, `If-Match`, security and the right an operation needs. Refuses (by panic, when the router is built)
//! an operation without a line in the table of permits.

use serde_json::{Map, Value, json};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use wharf_domain::rbac::{Group, Resource, Verb};
use wharf_domain::{Code, limits};

use crate::permits;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];
const NAME_PATTERN: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

/// POSTs that do nothing a second time would do twice, or whose answer must not be kept: they ignore the key.
const WITHOUT_KEY: [&str; 13] = [
    "login",
    "refresh",
    "logout",
    "impersonate",
    "review_access",
    "verify_audit",
    "reveal_secret",
    "import_image",
    "activate_agent_version",
    "start_build",
    "create_port_link",
    "link_published",
    // The program's to honour, or not.
    "post_port",
];

/// Operations whose body may be left out.
const OPTIONAL_BODY: [&str; 11] = [
    "logout",
    "verify_audit",
    "reveal_secret",
    "create_session",
    "close_session",
    "restore_session",
    "cancel_turn",
    "cancel_build",
    "fork_session",
    "create_snapshot",
    "link_published",
];

/// Enums of requests that refuse fields they do not know; the derive says so of structs alone.
const CLOSED: [&str; 3] = ["FileOp", "Block", "ScriptBlock"];

/// What the router starts from.
pub(crate) fn empty() -> OpenApi {
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Wharf")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(include_str!("openapi.md")))
                .license(Some(
                    LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
                ))
                .build(),
        )
        .build()
}

/// The whole document.
pub(crate) fn dress(api: &OpenApi) -> Value {
    let mut document = serde_json::to_value(api).expect("the document is plain data");
    document["openapi"] = json!("3.1.0");
    let paths = std::mem::take(&mut document["paths"]);
    let mut dressed = Map::new();
    if let Value::Object(paths) = paths {
        for (path, mut item) in paths {
            let path = path.replace("{*path}", "{path}");
            for method in METHODS {
                if let Some(operation) = item.get_mut(method) {
                    dress_operation(&path, method, operation);
                }
            }
            dressed.insert(path, item);
        }
    }
    document["paths"] = Value::Object(dressed);
    document["security"] = json!([{"bearer": []}]);
    document["tags"] = tags();
    document["components"]["securitySchemes"] = json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An access token from `/v1/auth/login`, or an API token (`wharf_…`).",
        }
    });
    document["components"]["responses"] = problem_responses();
    let (problem_name, problem) = schema_of::<wharf_wire::api::Problem>();
    document["components"]["schemas"][problem_name] = problem;
    let (code_name, code) = schema_of::<Code>();
    document["components"]["schemas"][code_name] = code;
    // Named only where the derive does not look.
    let (price_name, price) = schema_of::<wharf_wire::api::PricePatch>();
    document["components"]["schemas"][price_name] = price;
    // Made by macros whose words the derive does not see.
    name_words(&mut document, "Code", Code::ALL);
    name_words(&mut document, "Group", Group::ALL);
    name_words(&mut document, "Resource", Resource::ALL);
    name_words(&mut document, "Verb", Verb::ALL);
    for name in CLOSED {
        for variant in document["components"]["schemas"][name]["oneOf"].as_array_mut().into_iter().flatten() {
            variant["additionalProperties"] = json!(false);
        }
    }
    document
}

fn name_words<T: serde::Serialize>(document: &mut Value, schema: &str, all: &[T]) {
    let words = serde_json::to_value(all).expect("words are plain data");
    document["components"]["schemas"][schema] = match document["components"]["schemas"][schema].take() {
        Value::Object(mut old) => {
            old.insert("enum".to_owned(), words);
            old.insert("type".to_owned(), json!("string"));
            Value::Object(old)
        }
        _ => json!({"type": "string", "enum": words}),
    };
}

fn schema_of<T: utoipa::ToSchema>() -> (String, Value) {
    let schema = serde_json::to_value(T::schema()).expect("a schema is plain data");
    (T::name().into_owned(), schema)
}

fn dress_operation(path: &str, method: &str, operation: &mut Value) {
    let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
    let access =
        permits::of(&id).unwrap_or_else(|| panic!("the operation {id} is not in the table of permits"));
    operation["x-wharf-permit"] = access.show();
    if access.public() {
        operation["security"] = json!([]);
    }
    if OPTIONAL_BODY.contains(&id.as_str()) {
        operation["requestBody"]["required"] = json!(false);
    }
    add_parameters(path, method, &id, operation);
    let has_body = operation.get("requestBody").is_some();
    let has_query = operation["parameters"].as_array().is_some_and(|p| p.iter().any(|p| p["in"] == "query"));
    let v1 = path.starts_with("/v1/");
    let mut statuses = vec![500, 503];
    if v1 {
        statuses.extend([400, 429, 504]);
    }
    if v1 && (has_body || has_query || path.contains('{')) {
        statuses.push(422);
    }
    if !access.public() {
        statuses.extend([401, 403, 404]);
    }
    if access.public() && has_body {
        statuses.push(401);
    }
    if path.contains('{') || method == "post" {
        statuses.push(409);
    }
    if method == "patch" || (method == "delete" && path.contains('{')) {
        statuses.push(412);
    }
    if has_body {
        statuses.extend([413, 415]);
    }
    if matches!(id.as_str(), "get_file" | "read_published") {
        statuses.push(416);
    }
    if id == "read_published" {
        statuses.extend([400, 404, 422, 429, 504]);
    }
    if id == "tunnel" || id.ends_with("_port") {
        statuses.extend([413, 502]);
    }
    if !operation["responses"].is_object() {
        operation["responses"] = json!({});
    }
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        let content = response.get_mut("content");
        if let Some(stream) = content.and_then(|c| c.get_mut("text/event-stream")) {
            stream["schema"] = event_of(&stream["schema"]);
        }
        if response["description"].as_str().is_none_or(str::is_empty) {
            response["description"] = json!(spoken(status));
        }
    }
    if path.contains('{') {
        operation["responses"]["414"] = json!({"description": URI_TOO_LONG});
    }
    for status in statuses {
        let key = status.to_string();
        if operation["responses"].get(&key).is_none() {
            operation["responses"][key] = json!({"$ref": format!("#/components/responses/Problem{status}")});
        }
    }
}

/// One server-sent event whose data is `schema`, or the problem that broke the stream. A block with an id alone says
/// where the stream stands.
fn event_of(schema: &Value) -> Value {
    json!({
        "type": "object",
        "description": "One server-sent event. A block with an `id` alone says where the stream stands.",
        "properties": {
            "id": {"type": "string", "description": "Goes into `Last-Event-ID` to resume behind it."},
            "event": {"type": "string", "description": "The event's type; `error` when the stream broke."},
            "data": {
                "type": "string",
                "description": "JSON on one line.",
                "contentMediaType": "application/json",
                "contentSchema": {"oneOf": [schema, {"$ref": "#/components/schemas/Problem"}]},
            },
        },
    })
}

/// What a success says when its handler says nothing particular.
fn spoken(status: &str) -> &'static str {
    match status {
        "201" => "It was made.",
        "202" => "It was accepted and is being done.",
        "204" => "It was done.",
        _ => "The answer.",
    }
}

fn add_parameters(path: &str, method: &str, id: &str, operation: &mut Value) {
    let mut parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        if !parameters.iter().any(|p| p["in"] == "path" && p["name"] == name) {
            parameters.insert(0, path_parameter(name));
        }
    }
    if method == "post" && !WITHOUT_KEY.contains(&id) {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "The same key with the same body is done once and answered the same for 24 hours.",
            "schema": {"type": "string", "minLength": 1, "maxLength": limits::IDEMPOTENCY_KEY_CHARS, "pattern": "^[\\x21-\\x7e]+$"},
        }));
    }
    if matches!(method, "patch" | "delete") && takes_version(id) {
        parameters.push(json!({
            "name": "If-Match", "in": "header", "required": false,
            "description": "Does it only if the thing is still at this `resource_version`, in double quotes.",
            "schema": {"type": "string", "pattern": "^(\\*|\"[0-9]{1,18}\")?$"},
        }));
    }
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
}

fn takes_version(id: &str) -> bool {
    !matches!(id, "delete_file" | "delete_token" | "delete_image" | "delete_port" | "patch_port")
}

fn path_parameter(name: &str) -> Value {
    let (description, schema) = match name {
        "process" => (
            "The process's number.",
            json!({"type": "integer", "format": "int64", "minimum": 1, "maximum": i64::MAX}),
        ),
        "seq" => (
            "The message's number.",
            json!({"type": "integer", "format": "int64", "minimum": 1, "maximum": i64::MAX}),
        ),
        "version" => ("The version's number.", json!({"type": "integer", "format": "int32", "minimum": 1})),
        "path" => {
            ("The path without its first `/`.", json!({"type": "string", "minLength": 1, "maxLength": 4095}))
        }
        "port" => ("The port.", json!({"type": "integer", "minimum": 1, "maximum": 65535})),
        "link" => (
            "What stands in the address of a public copy, or a signed link.",
            json!({"type": "string", "minLength": 1, "maxLength": 160, "pattern": "^[A-Za-z0-9_.-]+$"}),
        ),
        "space" | "published" | "session" | "snapshot" | "secret" | "user" | "service_account" | "role"
        | "token" | "role_binding" | "image" | "provider" | "policy" | "connection" | "agent" | "repo" => {
            ("Name or id.", json!({"type": "string", "pattern": NAME_PATTERN, "maxLength": 63}))
        }
        "build" => ("The build's id.", json!({"type": "string", "format": "uuid"})),
        "approval" => ("The approval's id.", json!({"type": "string", "format": "uuid"})),
        other => panic!("the path parameter {other} is not described"),
    };
    json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
}

/// The HTTP library's own answer, before anything of the request is looked at.
const URI_TOO_LONG: &str = "The address is longer than 65534 bytes. There is no body.";

fn problem_responses() -> Value {
    let mut by_status: std::collections::BTreeMap<u16, Vec<Code>> = std::collections::BTreeMap::new();
    for code in Code::ALL {
        by_status.entry(code.status()).or_default().push(*code);
    }
    let mut responses = Map::new();
    for (status, codes) in by_status {
        let lines: Vec<String> = codes.iter().map(|c| format!("`{c}`: {}", c.title().trim())).collect();
        let mut response = json!({
            "description": lines.join("\n\n"),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        });
        if matches!(status, 429 | 503) {
            response["headers"] =
                json!({"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}});
        }
        responses.insert(format!("Problem{status}"), response);
    }
    Value::Object(responses)
}

fn tags() -> Value {
    json!([
        {"name": "auth", "description": "Login, tokens, impersonation, and the question \"may I?\"."},
        {"name": "principals", "description": "Users, service accounts and their API tokens."},
        {"name": "access", "description": "Roles and role bindings."},
        {"name": "audit", "description": "Who did what, chained by hash."},
        {"name": "spaces", "description": "The tenant boundary, its quotas and its events."},
        {"name": "secrets", "description": "Encrypted named values of a space."},
        {"name": "providers", "description": "Model providers that sessions reach through the gateway, with keys, prices and budgets."},
        {"name": "connections", "description": "Which requests of a space's sessions get which secret."},
        {"name": "repos", "description": "Git repositories. Their content travels by git's own protocol, at `/git/{space}/{repo}.git`."},
        {"name": "guardrails", "description": "Policies for what sessions do, and what waits for somebody's yes."},
        {"name": "images", "description": "Root filesystems sessions start from."},
        {"name": "agents", "description": "Packages that answer in sessions: versions, builds, logs of builds."},
        {"name": "sessions", "description": "An agent's computer each."},
        {"name": "messages", "description": "What users and agents say, and what happened meanwhile."},
        {"name": "processes", "description": "Commands, processes and terminals."},
        {"name": "desktop", "description": "The screen of a session."},
        {"name": "ports", "description": "What listens in a session, reached from outside."},
        {"name": "published", "description": "Immutable copies of files, with addresses of their own."},
        {"name": "files", "description": "Files of a session, running or closed."},
        {"name": "snapshots", "description": "Point-in-time copies of a session's files."},
        {"name": "server", "description": "The server itself."},
    ])
}
