//! Connections of a space: which requests of its sessions get which secret. The secret itself is never shown here.

use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use wharf_domain::egress::rule::{Match, Placement, Ssh};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, ConnectionId, Error, NameOrId};
use wharf_store::{Connection, ConnectionPatch, NewConnection};
use wharf_wire::api;

use super::tokens::NO_STORE;
use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, IfMatch, Json, Keyed, ListQuery, Params, Query, SpacePath};
use crate::problem::Problem;

pub(crate) struct ConnectionPath {
    at: SpacePath,
    connection: NameOrId<ConnectionId>,
}

impl FromPath for ConnectionPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SpacePath::from_path(p)?, connection: p.get("connection")? })
    }
}

fn rule(m: api::ConnectionMatch) -> Result<Match, Error> {
    Match::new(m.host, m.methods, m.path_prefix)
}

fn placement(inject: &api::ConnectionInject) -> Result<Placement, Error> {
    let refuse = |detail: &str| Error::new(Code::InvalidField, detail).field("inject");
    if inject.prefix.is_some() && inject.header.is_none() {
        return Err(refuse("a prefix stands in a header: give inject.header too").field("inject.prefix"));
    }
    match (&inject.header, &inject.query, &inject.basic, &inject.ssh) {
        (Some(name), None, None, None) => Placement::header(name, inject.prefix.clone().unwrap_or_default()),
        (None, Some(name), None, None) => Placement::query(name.clone()),
        (None, None, Some(user), None) => Placement::basic(user.clone()),
        (None, None, None, Some(ssh)) => Placement::ssh(ssh.user.clone(), ssh.host_keys.clone(), ssh.push),
        _ => Err(refuse("give one of header, query, basic and ssh: that is where the credential is put")),
    }
}

fn show(c: Connection) -> api::Connection {
    let mut inject = api::ConnectionInject {
        header: None,
        prefix: None,
        query: None,
        basic: None,
        ssh: None,
        secret: c.secret,
    };
    match c.placement {
        Placement::Header { name, prefix } => {
            inject.header = Some(name);
            inject.prefix = Some(prefix).filter(|p| !p.is_empty());
        }
        Placement::Query { name } => inject.query = Some(name),
        Placement::Basic { user } => inject.basic = Some(user),
        Placement::Ssh(Ssh { user, host_keys, push }) => {
            inject.ssh = Some(api::ConnectionSsh { user, host_keys, push });
        }
    }
    api::Connection {
        id: c.id,
        name: c.name,
        matches: api::ConnectionMatch {
            host: c.rule.host,
            methods: c.rule.methods,
            path_prefix: c.rule.path_prefix,
        },
        inject,
        labels: c.labels,
        created_at: c.created_at,
        updated_at: c.updated_at,
        resource_version: c.resource_version,
    }
}

/// List connections
#[utoipa::path(get, path = "/v1/spaces/{space}/connections", tag = "connections", params(ListQuery),
    responses((status = 200, body = api::Page<api::Connection>)))]
pub(crate) async fn list_connections(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<ListQuery>,
) -> Result<impl IntoResponse, Problem> {
    let page = query.page()?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let connections = scope.connections().list(&page).await?;
    Ok((NO_STORE, Json(view::page(connections, show))))
}

/// Make a connection
///
/// Requests of the space's sessions that match get the secret, outside of the session. Whoever points a secret at a host
/// can read it there, so this takes the verb `read-values` on the secret too.
#[utoipa::path(post, path = "/v1/spaces/{space}/connections", tag = "connections",
    request_body = api::CreateConnection, responses((status = 201, body = api::Connection)))]
pub(crate) async fn create_connection(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SpacePath>,
    Keyed { key, body }: Keyed<api::CreateConnection>,
) -> Result<impl IntoResponse, Halt> {
    let placement = placement(&body.inject)?;
    let rule = rule(body.matches)?;
    placement.check(&rule)?;
    let new =
        NewConnection { name: body.name, rule, placement, secret: body.inject.secret, labels: body.labels };
    let claim = key.claim(&app, &caller).await?;
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.connections().allow(&new.name).await?;
    let connection = show(scope.connections().create(&permit, new).await?);
    scope.commit_reply(201, &connection).await?;
    Ok((StatusCode::CREATED, NO_STORE, Json(connection)))
}

/// Get a connection
#[utoipa::path(get, path = "/v1/spaces/{space}/connections/{connection}", tag = "connections",
    responses((status = 200, body = api::Connection)))]
pub(crate) async fn get_connection(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ConnectionPath>,
) -> Result<impl IntoResponse, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.connections().permit(&at.connection, Verb::Get).await?;
    Ok((NO_STORE, Json(show(permit.into_row()))))
}

/// Change a connection
///
/// A new `match` or `inject` counts for the next request of a session, and takes the verb `read-values` on the secret.
#[utoipa::path(patch, path = "/v1/spaces/{space}/connections/{connection}", tag = "connections",
    request_body = api::PatchConnection, responses((status = 200, body = api::Connection)))]
pub(crate) async fn patch_connection(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ConnectionPath>,
    IfMatch(version): IfMatch,
    Json(body): Json<api::PatchConnection>,
) -> Result<impl IntoResponse, Problem> {
    let inject = body.inject.map(|i| placement(&i).map(|p| (p, i.secret))).transpose()?;
    let rule = body.matches.map(rule).transpose()?;
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.connections().permit(&at.connection, Verb::Update).await?;
    let placed = inject.as_ref().map_or(&permit.placement, |(placement, _)| placement);
    placed.check(rule.as_ref().unwrap_or(&permit.rule))?;
    let patch = ConnectionPatch { rule, inject, labels: view::labels(&permit.labels, body.labels)? };
    let connection = show(scope.connections().update(&permit, patch, version).await?);
    scope.commit().await?;
    Ok((NO_STORE, Json(connection)))
}

/// Delete a connection
#[utoipa::path(delete, path = "/v1/spaces/{space}/connections/{connection}", tag = "connections",
    responses((status = 204)))]
pub(crate) async fn delete_connection(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<ConnectionPath>,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.connections().permit(&at.connection, Verb::Delete).await?;
    scope.connections().delete(&permit, version).await?;
    scope.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
