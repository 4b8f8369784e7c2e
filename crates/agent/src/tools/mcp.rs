//! Tools of servers that speak the Model Context Protocol: <https://modelcontextprotocol.io/specification/2025-11-25>.
//!
//! A client of what an agent needs of it: `initialize`, `tools/list` with its pages, `tools/call`, cancellation, pings, and the
//! news that the list has changed. Over HTTP no stream is held open to hear that news on: a server that says its list may change
//! is asked for it again with each turn and after each call of one of its tools. It offers a server nothing: no sampling, no roots, no questions to the user. A server that was
//! asked for and cannot be had is an error, not a smaller set of tools.

mod http;
mod rpc;
mod stdio;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use wharf_wire::api::McpServer;

use super::{Outcome, Place, page};
use crate::block::Part;
use crate::model::ToolDef;
use http::Http;
use stdio::Stdio;

/// Newest first; the first is offered.
pub const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const CALL: Duration = Duration::from_secs(120);
/// How long a server may take to say hello: some are fetched by their own launcher first.
const START: Duration = Duration::from_secs(60);
/// Pages of a list, and tools of all servers together.
const PAGES: usize = 50;
const TOOLS: usize = 512;
/// What providers take as the name of a tool.
const NAME_CHARS: usize = 64;

enum Connection {
    Stdio(Stdio),
    Http(Http),
}

struct Server {
    spec: McpServer,
    limit: Duration,
    /// None: it ended, and is started again when it is called.
    connection: Option<Connection>,
    /// What is known of its tools may be old.
    stale: bool,
}

struct Tool {
    server: usize,
    /// As its server calls it.
    name: String,
    definition: ToolDef,
}

impl Server {
    /// Its connection, which is opened again where it has ended.
    async fn alive(&mut self, place: &Place) -> Result<&mut Connection, String> {
        if !self.connection.as_ref().is_some_and(Connection::is_alive) {
            self.connection = None;
            let again = Connection::open(place, &self.spec).await;
            self.connection = Some(again.map_err(|e| {
                format!("The server of this tool is gone and could not be started again: {e}")
            })?);
            self.stale = true;
        }
        self.connection.as_mut().ok_or_else(|| "The server of this tool is gone.".to_owned())
    }
}

#[derive(Default)]
pub struct Servers {
    all: Vec<Server>,
    tools: Vec<Tool>,
    by_name: HashMap<String, usize>,
}

impl Connection {
    async fn open(place: &Place, spec: &McpServer) -> Result<Self, String> {
        let mut connection = match &spec.url {
            Some(url) => Self::Http(Http::new(place.gateway.clone(), url)),
            None => Self::Stdio(Stdio::start(&place.home, spec)?),
        };
        let hello = json!({
            "protocolVersion": VERSIONS[0],
            "capabilities": {},
            "clientInfo": {"name": "wharf", "version": env!("CARGO_PKG_VERSION")}
        });
        let answer = connection.request("initialize", hello, START).await?;
        let version = answer.get("protocolVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !VERSIONS.contains(&version.as_str()) {
            return Err(format!(
                "it speaks version {version:?} of the protocol, and we {}",
                VERSIONS.join(", ")
            ));
        }
        if let Self::Http(http) = &mut connection {
            let changes = answer.pointer("/capabilities/tools/listChanged").and_then(Value::as_bool);
            http.speak(&version, changes.unwrap_or(false));
        }
        connection.notify("notifications/initialized").await?;
        Ok(connection)
    }

    async fn request(&mut self, method: &str, params: Value, limit: Duration) -> Result<Value, String> {
        match self {
            Self::Stdio(stdio) => stdio.request(method, params, limit).await,
            Self::Http(http) => http.request(method, params, limit).await,
        }
    }

    async fn notify(&mut self, method: &str) -> Result<(), String> {
        match self {
            Self::Stdio(stdio) => stdio.notify(method).await,
            Self::Http(http) => http.notify(method).await,
        }
    }

    fn is_alive(&self) -> bool {
        match self {
            Self::Stdio(stdio) => stdio.is_alive(),
            Self::Http(http) => http.is_alive(),
        }
    }

    fn take_changed(&self) -> bool {
        match self {
            Self::Stdio(stdio) => stdio.take_changed(),
            Self::Http(http) => http.take_changed(),
        }
    }

    /// It no longer knows the session that a request belonged to, and has not looked at it.
    fn has_forgotten(&self) -> bool {
        matches!(self, Self::Http(http) if !http.is_alive())
    }

    /// Whether its list may change without us being told.
    fn changes_unheard(&self) -> bool {
        matches!(self, Self::Http(http) if http.changes)
    }

    async fn list(&mut self) -> Result<Vec<Value>, String> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..PAGES {
            let params = cursor.map_or_else(|| json!({}), |c| json!({"cursor": c}));
            let mut page = self.request("tools/list", params, START).await?;
            if let Some(Value::Array(tools)) = page.get_mut("tools").map(Value::take) {
                all.extend(tools);
            }
            cursor = page.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                return Ok(all);
            }
        }
        Err(format!("its list of tools has more than {PAGES} pages"))
    }
}

impl Servers {
    pub async fn start(place: &Place, specs: &[McpServer]) -> Result<Self, String> {
        let mut servers = Self::default();
        for spec in specs {
            let fail = |why: String| format!("the MCP server {:?} cannot be used: {why}", spec.name);
            let connection = Connection::open(place, spec).await.map_err(fail)?;
            let limit = spec.timeout_seconds.map_or(CALL, |s| Duration::from_secs(u64::from(s)));
            servers.all.push(Server {
                spec: spec.clone(),
                limit,
                connection: Some(connection),
                stale: false,
            });
            servers.list(servers.all.len() - 1).await.map_err(fail)?;
        }
        Ok(servers)
    }

    /// Asks one server for its tools, in place of those known of it.
    async fn list(&mut self, at: usize) -> Result<(), String> {
        let server = &mut self.all[at];
        let Some(connection) = &mut server.connection else { return Ok(()) };
        // News of it that come while it is listed are news again.
        connection.take_changed();
        let listed = connection.list().await?;
        server.stale = false;
        let spec = server.spec.clone();
        self.tools.retain(|t| t.server != at);
        self.index();
        for tool in &listed {
            let Some(name) = tool.get("name").and_then(Value::as_str) else { continue };
            if spec.tools.as_ref().is_some_and(|only| !only.iter().any(|o| o == name)) {
                continue;
            }
            if self.tools.len() >= TOOLS {
                return Err(format!(
                    "all servers together have more than {TOOLS} tools; name those you want in `tools`"
                ));
            }
            let public = self.public_name(&spec.name, name);
            let text = |field: &str| tool.get(field).and_then(Value::as_str).unwrap_or_default();
            let schema = tool.get("inputSchema").filter(|s| s.is_object()).cloned();
            self.by_name.insert(public.clone(), self.tools.len());
            self.tools.push(Tool {
                server: at,
                name: name.to_owned(),
                definition: ToolDef {
                    name: public,
                    description: page::bounded(if text("description").is_empty() {
                        text("title")
                    } else {
                        text("description")
                    }),
                    schema: schema.unwrap_or_else(|| json!({"type": "object"})),
                    built_in: None,
                },
            });
        }
        if let Some(missing) = spec
            .tools
            .iter()
            .flatten()
            .find(|want| !listed.iter().any(|t| t.get("name").and_then(Value::as_str) == Some(want)))
        {
            return Err(format!("it has no tool {missing:?}"));
        }
        Ok(())
    }

    fn index(&mut self) {
        self.by_name = self.tools.iter().enumerate().map(|(i, t)| (t.definition.name.clone(), i)).collect();
    }

    /// `server__tool`, of characters every provider takes, and no other tool's.
    fn public_name(&self, server: &str, tool: &str) -> String {
        let plain: String = format!("{server}__{tool}")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
            .take(NAME_CHARS)
            .collect();
        let mut name = plain.clone();
        for n in 2.. {
            if !self.by_name.contains_key(&name) {
                break;
            }
            let end = format!("_{n}");
            name = format!("{}{end}", &plain[..plain.len().min(NAME_CHARS - end.len())]);
        }
        name
    }

    pub fn definitions(&self) -> Vec<ToolDef> {
        self.tools.iter().map(|t| t.definition.clone()).collect()
    }

    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// For a new turn: what was said meanwhile, to nobody who would have heard it, is asked for.
    pub async fn refresh(&mut self) {
        for server in &mut self.all {
            server.stale |= server.connection.as_ref().is_some_and(Connection::changes_unheard);
        }
        self.hear().await;
    }

    /// Takes in what servers said of their lists since. What fails keeps the list that is known.
    pub async fn hear(&mut self) {
        for at in 0..self.all.len() {
            let server = &mut self.all[at];
            server.stale |= server.connection.as_ref().is_some_and(Connection::take_changed);
            if !server.stale {
                continue;
            }
            // Tried once: a server that is away is not asked before each answer.
            server.stale = false;
            if let Err(why) = self.list(at).await {
                eprintln!("the tools of {:?} could not be listed again: {why}", self.all[at].spec.name);
            }
        }
    }

    pub async fn call(&mut self, place: &Place, name: &str, input: &Value) -> Result<Outcome, String> {
        let mut again = false;
        let Some(tool) = self.by_name.get(name).map(|at| &self.tools[*at]) else {
            return Err(format!("There is no tool {name:?} here."));
        };
        let (name, server) = (tool.name.clone(), &mut self.all[tool.server]);
        let limit = server.limit;
        let answer = loop {
            let connection = server.alive(place).await?;
            let params = json!({"name": name, "arguments": input});
            let answer = connection.request("tools/call", params, limit).await;
            // Who has forgotten the session has not looked at the request: a new session is told it.
            let forgotten = answer.is_err() && connection.has_forgotten();
            let unheard = connection.changes_unheard();
            server.stale |= unheard;
            if forgotten && !std::mem::replace(&mut again, true) {
                continue;
            }
            break answer?;
        };
        Ok(outcome(place, &answer))
    }
}

/// What a server answered, as the model is shown it.
fn outcome(place: &Place, answer: &Value) -> Outcome {
    let mut content = Vec::new();
    let text = |value: &Value, pointer: &str| {
        value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    for block in answer.get("content").and_then(Value::as_array).into_iter().flatten() {
        match text(block, "/type").as_str() {
            "text" => content.push(Part::text(page::bounded(&text(block, "/text")))),
            "image" => match place.images.keep_base64(&text(block, "/data"), &text(block, "/mimeType")) {
                Ok(image) => content.push(Part::Image { image }),
                Err(e) => content.push(Part::text(format!("[a picture that cannot be shown: {e}]"))),
            },
            "resource" => {
                let (uri, body) = (text(block, "/resource/uri"), text(block, "/resource/text"));
                content.push(Part::text(if body.is_empty() {
                    format!("[a resource that is no text: {uri}]")
                } else {
                    format!("{uri}:\n{}", page::bounded(&body))
                }));
            }
            "resource_link" => {
                content.push(Part::text(format!("[{}: {}]", text(block, "/name"), text(block, "/uri"))));
            }
            other => content.push(Part::text(format!("[content of type {other:?}, which cannot be shown]"))),
        }
    }
    if content.is_empty()
        && let Some(structured) = answer.get("structuredContent").filter(|s| !s.is_null())
    {
        content.push(Part::text(page::bounded(&structured.to_string())));
    }
    Outcome {
        content,
        is_error: answer.get("isError").and_then(Value::as_bool).unwrap_or(false),
        share: None,
    }
}
