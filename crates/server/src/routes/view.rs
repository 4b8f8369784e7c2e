//! Rows as the API shows them, and the few conversions the other way.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use wharf_domain::egress::Policy;
use wharf_domain::rbac::Grant;
use wharf_domain::{Code, Error, Labels, Name, Plain, ServiceAccountId, Time, UserId};
use wharf_store::sessions::{
    LineageNode, LogRow, MessageRow, Parent, Role as Speaker, SessionRow, SnapshotRow, SnapshotState,
};
use wharf_store::{
    ApiToken, Binding, Identity, Page, PrincipalKind, Provider, Role, Secret, ServiceAccount, Space, User,
};
use wharf_wire::api;

pub(super) fn page<R, T>(page: Page<R>, show: impl FnMut(R) -> T) -> api::Page<T> {
    let page = page.map(show);
    api::Page { items: page.items, next_cursor: page.next_cursor }
}

pub(super) fn try_page<R, T>(
    page: Page<R>,
    show: impl FnMut(R) -> Result<T, Error>,
) -> Result<api::Page<T>, Error> {
    let items = page.items.into_iter().map(show).collect::<Result<_, _>>()?;
    Ok(api::Page { items, next_cursor: page.next_cursor })
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(Error::internal)
}

pub(super) fn plain(text: api::Sensitive) -> Plain {
    Plain::new(text.into_inner())
}

pub(super) fn sensitive(plain: &Plain) -> Result<api::Sensitive, Error> {
    plain.expose_str().map(api::Sensitive::new).ok_or_else(|| Error::internal("a token is not text"))
}

/// What a session may reach, from its row.
pub(super) fn network(value: &Value) -> Result<Policy, Error> {
    serde_json::from_value(value.clone()).map_err(Error::internal)
}

/// Labels after a merge patch; `None` when the patch says nothing of them.
pub(super) fn labels(old: &Labels, patch: Option<api::LabelsPatch>) -> Result<Option<Labels>, Error> {
    let Some(patch) = patch else { return Ok(None) };
    let mut all: BTreeMap<String, String> = old.clone().into();
    for (key, value) in patch {
        match value {
            Some(value) => all.insert(key, value),
            None => all.remove(&key),
        };
    }
    Labels::try_from(all).map(Some)
}

/// An object after a merge patch (RFC 7396).
pub(super) fn merged(old: &Map<String, Value>, patch: Map<String, Value>) -> Map<String, Value> {
    let mut all = old.clone();
    for (key, value) in patch {
        match value {
            Value::Null => {
                all.remove(&key);
            }
            Value::Object(inner) => {
                let before = match all.remove(&key) {
                    Some(Value::Object(before)) => before,
                    _ => Map::new(),
                };
                all.insert(key, Value::Object(merged(&before, inner)));
            }
            other => {
                all.insert(key, other);
            }
        }
    }
    all
}

/// Seconds of idle and turn limits, in the ranges the document shows.
pub(super) fn check_timeouts(prefix: &str, idle: Option<u32>, turn: Option<u32>) -> Result<(), Error> {
    let refuse = |name: &str, range: &str| {
        Err(Error::new(Code::InvalidField, format!("{name} is {range}")).field(format!("{prefix}{name}")))
    };
    if idle.is_some_and(|s| s > 31_536_000) {
        return refuse("idle_timeout_seconds", "0 (never) to 31536000");
    }
    if turn.is_some_and(|s| !(1..=604_800).contains(&s)) {
        return refuse("turn_timeout_seconds", "1 to 604800");
    }
    Ok(())
}

pub(super) fn user(u: User) -> api::User {
    let p = u.0;
    api::User {
        id: UserId::from_uuid(p.id.uuid()),
        name: p.name,
        display_name: p.display_name,
        labels: p.labels,
        disabled: p.disabled,
        created_at: p.created_at,
        updated_at: p.updated_at,
        resource_version: p.resource_version,
    }
}

pub(super) fn service_account(a: ServiceAccount) -> api::ServiceAccount {
    let p = a.0;
    api::ServiceAccount {
        id: ServiceAccountId::from_uuid(p.id.uuid()),
        name: p.name,
        description: p.display_name,
        labels: p.labels,
        disabled: p.disabled,
        created_at: p.created_at,
        updated_at: p.updated_at,
        resource_version: p.resource_version,
    }
}

pub(super) fn token(t: ApiToken) -> api::ApiToken {
    api::ApiToken {
        id: t.id,
        name: t.name,
        expires_at: t.expires_at,
        rules: t.rules,
        created_at: t.created_at,
        last_used_at: t.last_used_at,
    }
}

pub(super) fn role(r: Role) -> api::Role {
    api::Role {
        id: r.id,
        name: r.name,
        rules: r.rules,
        labels: r.labels,
        built_in: r.built_in,
        created_at: r.created_at,
        updated_at: r.updated_at,
        resource_version: r.resource_version,
    }
}

pub(super) fn kind(kind: PrincipalKind) -> Result<api::PrincipalKind, Error> {
    match kind {
        PrincipalKind::User => Ok(api::PrincipalKind::User),
        PrincipalKind::ServiceAccount => Ok(api::PrincipalKind::ServiceAccount),
        other => Err(Error::internal(format!("{} is no principal of the API", other.as_str()))),
    }
}

pub(super) fn store_kind(kind: api::PrincipalKind) -> PrincipalKind {
    match kind {
        api::PrincipalKind::User => PrincipalKind::User,
        api::PrincipalKind::ServiceAccount => PrincipalKind::ServiceAccount,
    }
}

pub(super) fn principal(identity: &Identity) -> Result<api::PrincipalRef, Error> {
    let name = identity.name.parse().map_err(|e: Error| Error::internal(e.to_string()))?;
    Ok(api::PrincipalRef { kind: kind(identity.kind)?, name })
}

pub(super) fn binding(b: Binding) -> Result<api::RoleBinding, Error> {
    Ok(api::RoleBinding {
        id: b.id,
        name: b.name,
        role: b.role,
        principal: api::PrincipalRef { kind: kind(b.principal_kind)?, name: b.principal },
        space: b.space,
        labels: b.labels,
        created_at: b.created_at,
        updated_at: b.updated_at,
        resource_version: b.resource_version,
    })
}

pub(super) fn grant(g: &Grant) -> api::GrantView {
    api::GrantView {
        binding: g.binding.clone(),
        role: g.role.clone(),
        space: g.space,
        rules: g.rules.clone(),
    }
}

pub(super) fn defaults(value: Value) -> Result<api::SpaceDefaults, Error> {
    serde_json::from_value(value).map_err(Error::internal)
}

pub(super) fn space(s: Space) -> Result<api::Space, Error> {
    Ok(api::Space {
        id: s.id,
        name: s.name,
        labels: s.labels,
        quotas: s.quotas,
        defaults: defaults(s.defaults)?,
        created_at: s.created_at,
        updated_at: s.updated_at,
        resource_version: s.resource_version,
    })
}

pub(super) fn secret(s: Secret) -> api::Secret {
    api::Secret {
        id: s.id,
        name: s.name,
        labels: s.labels,
        version: i64::from(s.version),
        created_at: s.created_at,
        updated_at: s.updated_at,
        resource_version: s.resource_version,
    }
}

pub(super) fn provider(p: Provider) -> api::Provider {
    api::Provider {
        id: p.id,
        name: p.name,
        protocol: p.spec.protocol,
        base_url: p.spec.upstream(),
        key_header: p.spec.key_header(),
        secret: p.spec.secret,
        headers: p.spec.headers,
        models: p.spec.models,
        prices: p.spec.prices,
        budget: p.spec.budget,
        retries: p.spec.retries,
        script: p.spec.script,
        labels: p.labels,
        created_at: p.created_at,
        updated_at: p.updated_at,
        resource_version: p.resource_version,
    }
}

fn origin(p: Parent) -> api::Origin {
    api::Origin { session: p.session, snapshot: p.snapshot, seq: p.seq }
}

pub(super) fn session(space: &Name, s: SessionRow) -> Result<api::Session, Error> {
    Ok(api::Session {
        id: s.id,
        name: s.name,
        space: space.clone(),
        state: s.state,
        state_reason: s.state_reason,
        desired: s.desired,
        agent: agent(s.agent)?,
        agents: s.agents.into_iter().map(agent).collect::<Result<_, _>>()?,
        image: api::ImageView { name: s.image.name, digest: s.image.digest },
        resources: s.resources,
        network: network(&s.network)?.into(),
        env: s.env.0,
        instructions: s.instructions,
        setup: s.setup,
        allow_root: s.allow_root,
        idle_timeout_seconds: s.idle_timeout_seconds,
        turn_timeout_seconds: s.turn_timeout_seconds,
        labels: s.labels,
        metadata: s.metadata,
        from: s.parent.map(origin),
        usage: s
            .model_usage
            .map(serde_json::from_value)
            .transpose()
            .map_err(Error::internal)?
            .unwrap_or_default(),
        runtime: s.runtime,
        last_used_at: Some(s.last_used_at),
        created_at: s.created_at,
        updated_at: s.updated_at,
        resource_version: s.resource_version,
    })
}

/// An agent of a session as its API has it: where its package lies is not part of that.
fn agent(mut agent: Value) -> Result<api::Agent, Error> {
    if let Value::Object(agent) = &mut agent {
        agent.remove("built");
    }
    serde_json::from_value(agent).map_err(Error::internal)
}

pub(super) fn message(m: MessageRow) -> Result<api::Message, Error> {
    let (agent, to) = match m.role {
        Speaker::User => (None, m.agent),
        Speaker::Agent => (m.agent, None),
    };
    Ok(api::Message {
        seq: m.seq,
        role: match m.role {
            Speaker::User => api::MessageRole::User,
            Speaker::Agent => api::MessageRole::Agent,
        },
        agent,
        to,
        author: m.author,
        content: serde_json::from_value(m.content).map_err(Error::internal)?,
        turn: m.turn,
        state: m.state,
        reason: m.reason,
        detail: m.detail,
        usage: m.usage,
        created_at: m.created_at,
        started_at: m.started_at,
        ended_at: m.ended_at,
    })
}

pub(super) fn session_event(l: LogRow) -> api::SessionEvent {
    api::SessionEvent { seq: l.seq, kind: l.kind, at: l.at, turn: l.turn, data: l.data }
}

pub(super) fn snapshot(p: SnapshotRow) -> api::Snapshot {
    api::Snapshot {
        id: p.id,
        name: p.name,
        session: p.session,
        state: match p.state {
            SnapshotState::Pending => api::SnapshotState::Pending,
            SnapshotState::Ready => api::SnapshotState::Ready,
            SnapshotState::Failed => api::SnapshotState::Failed,
        },
        state_reason: p.state_reason,
        seq: p.seq,
        runtime: p.runtime,
        size_bytes: p.bytes,
        stall_micros: p.stall_micros,
        labels: p.labels,
        created_at: p.created_at,
        updated_at: p.updated_at,
        resource_version: p.resource_version,
    }
}

pub(super) fn lineage_node(n: LineageNode) -> api::LineageNode {
    api::LineageNode {
        id: n.id,
        name: n.name,
        state: n.state,
        from: n.parent.map(origin),
        created_at: n.created_at,
    }
}

/// Whole seconds from `now` until `then`; none when it is past.
pub(super) fn seconds_until(now: Time, then: Time) -> u32 {
    u32::try_from(then.since(now).as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

/// `412` when the caller's `If-Match` names another version. Only of a row that the scope holds.
pub(super) fn check_version(have: i64, want: Option<i64>) -> Result<(), Error> {
    match want {
        Some(want) if want != have => Err(Error::new(
            Code::PreconditionFailed,
            format!("its resource_version is {have}, not {want}; read it again and repeat the change"),
        )),
        _ => Ok(()),
    }
}
