//! The agents of a session as a request names them: which is the default one, and who may be addressed.
//!
//! Whatever cannot be run is refused here, with the field at fault, rather than in the first turn.

use serde_json::{Value, json};
use wharf_domain::manifest::Kind;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, Name, NameOrId, limits};
use wharf_store::Scope;
use wharf_store::agents::Unmet;
use wharf_store::sessions::SessionRow;
use wharf_wire::api::{self, AgentKind};

use super::view;

/// Checks every agent of a request.
pub(super) fn check(body: &api::CreateSession) -> Result<(), Error> {
    if let Some(agent) = &body.agent {
        check_one(agent, "agent")?;
    }
    let count = body.agents.len() + usize::from(body.agent.is_some());
    let most = limits::SESSION_AGENTS;
    if count > most {
        return Err(refuse("agents", &format!("a session has up to {most} agents (limit SESSION_AGENTS)")));
    }
    let mut names: Vec<&str> = body.agent.iter().map(api::Agent::address).collect();
    for (at, agent) in body.agents.iter().enumerate() {
        check_one(agent, &format!("agents.{at}"))?;
        if agent.name.is_none() && agent.package.is_none() {
            return Err(refuse(&format!("agents.{at}.name"), "each of several agents needs a name"));
        }
        let name = agent.address();
        if names.contains(&name) {
            return Err(refuse(&format!("agents.{at}.name"), &format!("two agents are called {name}")));
        }
        names.push(name);
    }
    Ok(())
}

fn refuse(field: &str, detail: &str) -> Error {
    Error::new(Code::InvalidField, detail).field(field)
}

fn check_one(agent: &api::Agent, field: &str) -> Result<(), Error> {
    check_texts(agent, field)?;
    super::agents::check(agent).map_err(|e| {
        let inner = e.field.clone().unwrap_or_default();
        e.field(format!("{field}.{inner}"))
    })?;
    if agent.package.is_some() {
        if agent.kind != AgentKind::Shell || !agent.argv.is_empty() || agent.entry.is_some() {
            let detail = "what a package runs is said by the package: leave kind, argv and entry out";
            return Err(refuse(&format!("{field}.package"), detail));
        }
        return Ok(());
    }
    if agent.version.is_some() {
        return Err(refuse(&format!("{field}.version"), "a version is one of a package: name that too"));
    }
    let is_called = matches!(agent.kind, AgentKind::Python | AgentKind::Node);
    let (kind, other) = match agent.kind {
        AgentKind::Shell => (Kind::Shell, agent.entry.is_some()),
        AgentKind::Command => (Kind::Command, agent.entry.is_some()),
        AgentKind::ComputerUse => (Kind::ComputerUse, agent.entry.is_some()),
        AgentKind::Acp => (Kind::Acp, agent.entry.is_some()),
        AgentKind::Python => (Kind::Python, !agent.argv.is_empty()),
        AgentKind::Node => (Kind::Node, !agent.argv.is_empty()),
    };
    let (right, wrong) = if is_called { ("entry", "argv") } else { ("argv", "entry") };
    if other {
        let detail = format!("an agent of kind {kind} has no {wrong}; what it runs is its {right}");
        return Err(refuse(&format!("{field}.{wrong}"), &detail));
    }
    let entry: Vec<String> =
        if is_called { agent.entry.iter().cloned().collect() } else { agent.argv.clone() };
    kind.check_entry(&entry).map_err(|why| refuse(&format!("{field}.{right}"), &why))
}

fn check_texts(agent: &api::Agent, field: &str) -> Result<(), Error> {
    if agent.cwd.as_ref().is_some_and(|c| c.is_empty() || c.len() > 4095 || c.contains('\0')) {
        return Err(refuse(
            &format!("{field}.cwd"),
            "a working directory has 1 to 4095 bytes, none of them NUL",
        ));
    }
    if agent.description.as_ref().is_some_and(|d| d.len() > 1024) {
        return Err(refuse(&format!("{field}.description"), "a description has up to 1024 bytes"));
    }
    Ok(())
}

/// The agents of a new session as its row has them, and what the default one's package asks for.
pub(super) struct Chosen {
    pub agent: Value,
    pub agents: Vec<Value>,
    /// The manifest of the default agent's package; null where it has none.
    pub manifest: Value,
    /// Whether any of them comes as a package.
    pub packaged: bool,
}

/// The default agent, and all of them where there are several; versions of packages are fixed here.
pub(super) async fn chosen(
    scope: &mut Scope,
    agent: Option<api::Agent>,
    agents: Vec<api::Agent>,
) -> Result<Chosen, Error> {
    let is_list = agent.is_none();
    let mut all: Vec<api::Agent> = agent.into_iter().chain(agents).collect();
    if all.is_empty() {
        all.push(api::Agent::default());
    }
    let (mut rows, mut first, mut packaged) = (Vec::with_capacity(all.len()), Value::Null, false);
    for (at, agent) in all.iter().enumerate() {
        let field = match (is_list, at) {
            (false, 0) => "agent.package".to_owned(),
            (false, n) => format!("agents.{}.package", n - 1),
            (true, n) => format!("agents.{n}.package"),
        };
        let (row, manifest) = match &agent.package {
            None => (view::to_json(agent)?, Value::Null),
            Some(package) => packed(scope, agent, package, &field).await?,
        };
        packaged |= agent.package.is_some();
        if at == 0 {
            first = manifest;
        }
        rows.push(row);
    }
    let agent = rows[0].clone();
    let agents = if rows.len() > 1 { rows } else { Vec::new() };
    Ok(Chosen { agent, agents, manifest: first, packaged })
}

/// An agent of the space, as a session's row has it: what it runs, and where that is to be found.
async fn packed(
    scope: &mut Scope,
    agent: &api::Agent,
    package: &Name,
    field: &str,
) -> Result<(Value, Value), Error> {
    let known = scope.agents().permit(&NameOrId::Name(package.clone()), Verb::Get).await;
    let permit = known.map_err(|e| match e.code {
        Code::NotFound => Error::new(Code::InvalidReference, e.public).field(field),
        _ => e,
    })?;
    let version = scope.agents().version(&permit, agent.version).await?;
    let manifest = version.manifest;
    has_secrets(scope, package, &manifest, field).await?;
    let entry = manifest.get("entry").cloned().unwrap_or_default();
    let mut row = json!({
        "name": agent.address(),
        "kind": manifest.get("kind"),
        "package": package,
        "version": version.version,
        "built": {
            "digest": version.digest,
            "at": format!("/opt/wharf/agents/{package}"),
            "env": manifest.get("env").cloned().unwrap_or_else(|| json!({})),
        },
    });
    let description =
        agent.description.clone().map(Value::String).or_else(|| manifest.get("description").cloned());
    match manifest.get("kind").and_then(Value::as_str) {
        Some("python" | "node") => row["entry"] = entry.get(0).cloned().unwrap_or_default(),
        _ => row["argv"] = entry,
    }
    if let Some(cwd) = &agent.cwd {
        row["cwd"] = json!(cwd);
    }
    if let Some(description) = description.filter(|d| !d.is_null()) {
        row["description"] = description;
    }
    Ok((row, manifest))
}

/// Refuses a package that wants a secret which no session of the space would have anything of: what it does with it would fail in
/// somebody's turn.
async fn has_secrets(scope: &mut Scope, package: &Name, manifest: &Value, field: &str) -> Result<(), Error> {
    let wanted = manifest.get("secrets").and_then(Value::as_array);
    let wanted: Vec<String> =
        wanted.into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect();
    let unmet = scope.agents().unmet(&wanted).await?;
    let Some((secret, why)) = unmet.first() else { return Ok(()) };
    let connect = format!(
        "say where it goes with `wharf connection create {secret} --host HOST --bearer --key-secret {secret}` or a provider"
    );
    let todo = match why {
        Unmet::Missing => {
            format!(
                "the space has none of that name; make it with `wharf secret set {secret}`, and {connect}"
            )
        }
        Unmet::Unused => format!("no connection and no provider of the space uses it; {connect}"),
    };
    let more = match unmet.len() - 1 {
        0 => String::new(),
        n => format!(" ({n} more of its secrets are wanting)"),
    };
    let detail = format!("agent {package} wants secret {secret}: {todo}{more}");
    Err(Error::new(Code::InvalidReference, detail).field(field))
}

/// Refuses an address that none of the session's agents has.
pub(super) fn check_address(session: &SessionRow, to: &Name) -> Result<(), Error> {
    let one = std::slice::from_ref(&session.agent);
    let agents = if session.agents.is_empty() { one } else { &session.agents };
    let names: Vec<&str> = agents
        .iter()
        .filter_map(|a| a.get("name").or_else(|| a.get("kind")).and_then(Value::as_str))
        .collect();
    if names.contains(&to.as_str()) {
        return Ok(());
    }
    let detail = format!("session {} has no agent {to}; it has {}", session.name, names.join(", "));
    Err(Error::new(Code::InvalidReference, detail).field("to"))
}
