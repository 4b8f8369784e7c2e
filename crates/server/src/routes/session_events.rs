//! A session's log as a stream.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, SessionId, SpaceId};
use wharf_ports::Topic;
use wharf_store::Permit;
use wharf_store::sessions::SessionRow;
use wharf_wire::api;

use super::view;
use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{At, Auth, Flag, Query, SessionPath, Upgrade, last_event_id};
use crate::problem::Problem;
use crate::stream::{self, Batch, Reader, Record, Standing};

/// The largest number that every JSON reader reads.
pub(super) const LAST: i64 = 9_007_199_254_740_991;

/// Entries read at a time.
const PAGE: u32 = 200;
/// How many reads a permit is good for before it is asked for anew, when the caller was not asked again meanwhile.
const READS: u32 = 64;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only events after this number; 0 begins with the first. From now on when absent. Wins over `Last-Event-ID`.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    after: Option<i64>,
    /// Ends the stream when nothing more is there, instead of waiting for what comes.
    #[param(value_type = Option<bool>)]
    no_follow: Flag,
}

/// Follow a session's log
///
/// State changes, messages, turns and their output, in order and numbered. `Last-Event-ID` or `after` resumes behind a
/// number without a gap or a repeat. Server-sent events, or a WebSocket at the same path.
#[utoipa::path(get, path = "/v1/spaces/{space}/sessions/{session}/events", tag = "messages", params(EventsQuery),
    responses((status = 200, body = api::SessionEvent, content_type = "text/event-stream")))]
pub(crate) async fn session_events(
    State(app): State<App>,
    context: RequestContext,
    auth: Auth,
    At(at): At<SessionPath>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let resumed = last_event_id(&headers).map(number).transpose()?;
    // Before anything is read: what happens from here on wakes this stream.
    let wakes = app.bus.subscribe();
    let mut scope = app.store.scope(&auth.caller, &at.space).await?;
    let permit = scope.sessions().permit_messages(&at.session, Verb::Watch).await?;
    let space = scope.space()?.id;
    drop(scope);
    let id = permit.row().id;
    let from = match query.after.or(resumed) {
        Some(n) if !(0..=LAST).contains(&n) => {
            return Err(Error::new(Code::InvalidField, "after is 0 or the number of an event")
                .field("after")
                .into());
        }
        Some(n) => n,
        None => permit.row().last_seq,
    };
    let standing = Standing::of(&app, &auth);
    let reader = Log { app: app.clone(), standing, space, id, permit, reads: 0, follow: !query.no_follow.0 };
    let records = stream::follow(reader, wakes, Topic::SessionLog(id), from);
    Ok(stream::answer(&app, context, upgrade, records))
}

fn number(id: &str) -> Result<i64, Error> {
    id.parse().ok().filter(|n| *n >= 0).ok_or_else(|| {
        Error::new(Code::InvalidField, "that is not an id of this stream; start without one")
            .field("Last-Event-ID")
    })
}

struct Log {
    app: App,
    standing: Standing,
    space: SpaceId,
    id: SessionId,
    permit: Permit<SessionRow>,
    reads: u32,
    follow: bool,
}

impl Reader for Log {
    type Cursor = i64;

    async fn read(&mut self, from: i64) -> Result<Batch<i64>, Error> {
        self.reads += 1;
        if self.standing.due() || self.reads > READS {
            let mut scope =
                self.app.store.scope(self.standing.caller().await?, &NameOrId::Id(self.space)).await?;
            self.permit = scope.sessions().permit_messages(&NameOrId::Id(self.id), Verb::Watch).await?;
            self.reads = 0;
        }
        let page = self.app.store.session_log(&self.permit, from, PAGE).await?;
        let next = page.entries.last().map_or(from, |e| e.seq);
        let records = page
            .entries
            .into_iter()
            .map(|row| {
                let event = view::session_event(row);
                Record::of(Some(event.seq.to_string()), event.kind.clone(), &event)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Batch { end: !self.follow && !page.more, records, next, more_soon: page.more })
    }
}
