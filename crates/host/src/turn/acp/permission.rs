//! Requests for permission: allowed, as everything is that an agent does inside its own computer. What leaves the computer is
//! the gateway's to allow.

use serde_json::{Value, json};
use wharf_wire::host::turn::Said;

/// The answer, and the event that shows it.
pub fn decide(params: &Value, is_cancelled: bool) -> (Value, Said) {
    let empty = Vec::new();
    let options = params.get("options").and_then(Value::as_array).unwrap_or(&empty);
    let of_kind = |kind: &str| options.iter().find(|o| o.get("kind").and_then(Value::as_str) == Some(kind));
    // Once rather than always: what the agent remembers is not seen here.
    let chosen = of_kind("allow_once").or_else(|| of_kind("allow_always"));
    let chosen = chosen.filter(|_| !is_cancelled);
    let id = chosen.and_then(|o| o.get("optionId")).cloned();
    let outcome = match &id {
        Some(id) => json!({"outcome": "selected", "optionId": id}),
        None => json!({"outcome": "cancelled"}),
    };
    let event = Said::Event {
        name: "permission".into(),
        data: json!({
            "tool_call": params.get("toolCall"),
            "allowed": id.is_some(),
            "by": "default",
        }),
    };
    (json!({"outcome": outcome}), event)
}
