//! JSON-RPC 2.0, as far as MCP uses it.

use serde_json::{Value, json};

/// Bytes of one message of a server.
pub const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

pub fn request(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

pub fn notification(method: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": method})
}

pub fn cancelled(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "reason": "no longer wanted"}})
}

/// What a server said.
pub enum Said {
    Answer {
        id: u64,
        result: Result<Value, String>,
    },
    /// It wants something; here is what it is told.
    Asked(Value),
    ToolsChanged,
    Other,
}

pub fn read(message: &Value) -> Said {
    let id = message.get("id").filter(|id| !id.is_null());
    match (message.get("method").and_then(Value::as_str), id) {
        (None, Some(id)) => {
            let Some(id) = id.as_u64() else { return Said::Other };
            let result = match message.get("error") {
                Some(error) => {
                    let why = error.get("message").and_then(Value::as_str).unwrap_or("no reason given");
                    Err(format!("The server refused: {why}"))
                }
                None => Ok(message.get("result").cloned().unwrap_or_default()),
            };
            Said::Answer { id, result }
        }
        (Some("ping"), Some(id)) => Said::Asked(json!({"jsonrpc": "2.0", "id": id, "result": {}})),
        (Some(method), Some(id)) => Said::Asked(json!({"jsonrpc": "2.0", "id": id,
            "error": {"code": -32601, "message": format!("{method} is not offered here")}})),
        (Some("notifications/tools/list_changed"), None) => Said::ToolsChanged,
        _ => Said::Other,
    }
}
