//! Messages: what users and agents say.

use std::time::Duration;

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, Name, limits};
use wharf_store::Permit;
use wharf_store::sessions::{MessageRow, SessionRow};
use wharf_wire::api;

use super::session_events::LAST;
use super::sessions::check_content;
use super::view;
use crate::app::App;
use crate::extract::{At, Auth, FromPath, Halt, Json, Keyed, Params, Query, SessionPath};
use crate::problem::Problem;

pub(crate) struct MessagePath {
    at: SessionPath,
    seq: i64,
}

impl FromPath for MessagePath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        Ok(Self { at: SessionPath::from_path(p)?, seq: p.id("seq", "message")? })
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct MessagesQuery {
    /// Messages of a page; 50 when absent.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Only messages after this number.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    after: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before.
    #[param(max_length = 20, pattern = "^[0-9]{1,18}$")]
    cursor: Option<String>,
}

/// List messages
///
/// Oldest first.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/messages", tag = "messages", params(MessagesQuery),
    responses((status = 200, body = api::Page<api::Message>)))]
pub(crate) async fn list_messages(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<MessagesQuery>,
) -> Result<Json<api::Page<api::Message>>, Problem> {
    let limit = query.limit.unwrap_or(limits::PAGE_DEFAULT);
    if !(1..=limits::PAGE_MAX).contains(&limit) {
        let detail = format!("limit is {limit}; it must be between 1 and {}", limits::PAGE_MAX);
        return Err(Error::new(Code::InvalidField, detail).field("limit").into());
    }
    if query.after.is_some_and(|n| !(0..=LAST).contains(&n)) {
        return Err(Error::new(Code::InvalidField, "after is 0 or the number of a message")
            .field("after")
            .into());
    }
    let cursor = query.cursor.as_deref().map(|c| {
        c.parse::<i64>().ok().filter(|n| *n >= 0).ok_or_else(|| {
            Error::new(Code::InvalidField, "that is not a cursor of this list; start again without one")
                .field("cursor")
        })
    });
    let after = cursor.transpose()?.or(query.after).unwrap_or(0);
    let mut scope = app.store.scope(&caller, &at.space).await?;
    let permit = scope.sessions().permit_messages(&at.session, Verb::List).await?;
    let rows = scope.sessions().messages(&permit, after, limit).await?;
    // A page may be shorter than its limit because its messages are long: only an empty one is surely the last.
    let mut next_cursor = None;
    if let Some(last) = rows.last() {
        let more = scope.sessions().messages(&permit, last.seq, 1).await?;
        next_cursor = (!more.is_empty()).then(|| last.seq.to_string());
    }
    let items = rows.into_iter().map(view::message).collect::<Result<_, _>>()?;
    Ok(Json(api::Page { items, next_cursor }))
}

/// What an answer may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WaitTurn {
    Done,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct PostQuery {
    /// Holds the answer until the turn has ended, at most 300 seconds. `state` says whether it has.
    #[param(value_type = Option<String>, pattern = "^done$")]
    wait: Option<WaitTurn>,
}

/// Send a message
///
/// It is queued and answered in order. To a closed session it restores it.
#[utoipa::path(post, path = "/v1/spaces/{space}/sessions/{session}/messages", tag = "messages", params(PostQuery),
    request_body = api::PostMessage, responses((status = 202, body = api::PostedMessage)))]
pub(crate) async fn post_message(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<PostQuery>,
    Keyed { key, body }: Keyed<api::PostMessage>,
) -> Result<(StatusCode, Json<api::PostedMessage>), Halt> {
    check_content("content", &body.content)?;
    let claim = match key.claim(&app, &caller).await {
        Err(Halt::Replay { status, body }) if query.wait.is_some() => {
            return replayed(&app, &caller, &at, status, body).await;
        }
        claim => claim?,
    };
    let mut scope = app.store.scope(&caller, &at.space).await?;
    claim.attach(&mut scope);
    let permit = scope.sessions().permit_messages(&at.session, Verb::Create).await?;
    if let Some(to) = &body.to {
        super::session_agents::check_address(permit.row(), to)?;
    }
    let content = view::to_json(&body.content)?;
    let row = scope.sessions().post_message(&permit, &content, body.to.as_ref().map(Name::as_str)).await?;
    let seq = row.seq;
    let posted = api::PostedMessage { message: view::message(row)?, replies: Vec::new() };
    scope.commit_reply(202, &posted).await?;
    let posted = match query.wait {
        None => posted,
        Some(WaitTurn::Done) => answered(&app, &caller, &at, &permit, seq).await?,
    };
    Ok((StatusCode::ACCEPTED, Json(posted)))
}

/// A repetition that waits: the message was taken by the first request; its turn is waited for now.
async fn replayed(
    app: &App,
    caller: &wharf_store::Caller,
    at: &SessionPath,
    status: u16,
    body: serde_json::Value,
) -> Result<(StatusCode, Json<api::PostedMessage>), Halt> {
    let first: api::PostedMessage = serde_json::from_value(body.clone()).map_err(Error::internal)?;
    let mut scope = app.store.scope(caller, &at.space).await?;
    let Ok(permit) = scope.sessions().permit_messages(&at.session, Verb::Create).await else {
        return Err(Halt::Replay { status, body });
    };
    drop(scope);
    let posted = answered(app, caller, at, &permit, first.message.seq).await?;
    Ok((StatusCode::ACCEPTED, Json(posted)))
}

async fn answered(
    app: &App,
    caller: &wharf_store::Caller,
    at: &SessionPath,
    permit: &Permit<SessionRow>,
    seq: i64,
) -> Result<api::PostedMessage, Error> {
    let limit = Duration::from_secs(limits::WAIT_SECONDS.into());
    // A server that drains answers with what is.
    let row: MessageRow = match app.stop.or_drain(app.store.wait_turn(permit, seq, limit)).await {
        Some(row) => row?,
        None => app.store.wait_turn(permit, seq, Duration::ZERO).await?,
    };
    let mut scope = app.store.scope(caller, &at.space).await?;
    let replies = scope.sessions().replies(permit, row.turn).await?;
    Ok(api::PostedMessage {
        message: view::message(row)?,
        replies: replies.into_iter().map(view::message).collect::<Result<_, _>>()?,
    })
}

/// Get a message
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/messages/{seq}", tag = "messages",
    responses((status = 200, body = api::Message)))]
pub(crate) async fn get_message(
    State(app): State<App>,
    Auth { caller, .. }: Auth,
    At(at): At<MessagePath>,
) -> Result<Json<api::Message>, Problem> {
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.sessions().permit_messages(&at.at.session, Verb::Get).await?;
    let row = scope.sessions().message(&permit, at.seq).await?;
    Ok(Json(view::message(row)?))
}
