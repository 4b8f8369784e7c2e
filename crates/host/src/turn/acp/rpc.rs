//! JSON-RPC 2.0 as the protocol uses it: one object a line, no batches.

use serde_json::{Value, json};

/// What an agent says.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Request {
        id: Value,
        method: String,
        params: Value,
    },
    Notice {
        method: String,
        params: Value,
    },
    /// To a request of ours: those have numbers.
    Answer {
        id: u64,
        result: Result<Value, Fault>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub code: i64,
    pub message: String,
    pub data: Option<Value>,
}

impl Fault {
    pub const INVALID_PARAMS: i64 = -32602;
    pub const METHOD_NOT_FOUND: i64 = -32601;
    pub const INTERNAL: i64 = -32603;
    pub const NOT_FOUND: i64 = -32002;

    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub fn params(message: impl Into<String>) -> Self {
        Self::new(Self::INVALID_PARAMS, message)
    }

    /// For people: many agents put what went wrong into `data`.
    pub fn text(&self) -> String {
        match &self.data {
            None | Some(Value::Null) => self.message.clone(),
            Some(Value::String(data)) => format!("{}: {data}", self.message),
            Some(data) => {
                let more: String = data.to_string().chars().take(2000).collect();
                format!("{}: {more}", self.message)
            }
        }
    }
}

pub fn request(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

pub fn notification(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

pub fn answer(id: Value, result: Result<Value, Fault>) -> Value {
    match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(f) => {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": f.code, "message": f.message, "data": f.data}})
        }
    }
}

pub fn parse(line: &[u8]) -> Result<Heard, String> {
    let shown =
        || String::from_utf8_lossy(&line[..line.len().min(200)]).chars().take(120).collect::<String>();
    let value: Value =
        serde_json::from_slice(line).map_err(|e| format!("{e}; the line begins with {:?}", shown()))?;
    let Value::Object(mut object) = value else {
        return Err(format!("it is no object; the line begins with {:?}", shown()));
    };
    let id = object.remove("id").filter(|id| !id.is_null());
    let params = object.remove("params").unwrap_or(Value::Null);
    match (object.remove("method"), id) {
        (Some(Value::String(method)), Some(id)) => Ok(Heard::Request { id, method, params }),
        (Some(Value::String(method)), None) => Ok(Heard::Notice { method, params }),
        (Some(_), _) => Err("its method is no string".into()),
        (None, id) => {
            let result = match object.remove("error").filter(|e| !e.is_null()) {
                None => Ok(object.remove("result").unwrap_or(Value::Null)),
                Some(error) => Err(Fault {
                    code: error.get("code").and_then(Value::as_i64).unwrap_or(Fault::INTERNAL),
                    message: error
                        .get("message")
                        .and_then(Value::as_str)
                        .unwrap_or("the agent failed and does not say why")
                        .to_owned(),
                    data: error.get("data").cloned(),
                }),
            };
            match (id.as_ref().and_then(Value::as_u64), result) {
                (Some(id), result) => Ok(Heard::Answer { id, result }),
                // An answer to what it could not read: nothing will come of the question either.
                (None, Err(fault)) => Err(fault.text()),
                (None, Ok(_)) => Err("it is neither request nor answer".into()),
            }
        }
    }
}
