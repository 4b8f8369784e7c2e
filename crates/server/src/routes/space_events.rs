//! What happens in a space, as a stream from the outbox.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::rbac::Resource;
use wharf_domain::{Error, NameOrId, SpaceId};
use wharf_ports::Topic;
use wharf_store::{EventRecord, Position};
use wharf_wire::api;

use crate::app::App;
use crate::context::RequestContext;
use crate::extract::{At, Auth, Query, SpacePath, Upgrade, last_event_id};
use crate::problem::Problem;
use crate::stream::{self, Batch, Reader, Record, Standing};

/// Events read at a time.
const PAGE: u32 = 200;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct SpaceEventsQuery {
    /// Only events after this cursor; `0-0` begins with the oldest that is kept. From now on when absent. Wins over
    /// `Last-Event-ID`.
    #[param(max_length = 64, pattern = "^[0-9]{1,18}-[0-9]{1,19}$")]
    after: Option<String>,
    /// Only events of this kind of thing.
    resource: Option<Resource>,
}

/// Follow a space's events
///
/// Everything that changes in it and that the caller may watch, in order. `Last-Event-ID` or `after` resumes without a gap
/// or a repeat. Server-sent events, or a WebSocket at the same path.
#[utoipa::path(get, path = "/v1/spaces/{space}/events", tag = "spaces", params(SpaceEventsQuery),
    responses((status = 200, body = api::SpaceEvent, content_type = "text/event-stream")))]
pub(crate) async fn space_events(
    State(app): State<App>,
    context: RequestContext,
    auth: Auth,
    At(at): At<SpacePath>,
    Query(query): Query<SpaceEventsQuery>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let asked = query.after.as_deref().or(last_event_id(&headers));
    let asked: Option<Position> = asked.map(str::parse).transpose()?;
    let wakes = app.bus.subscribe();
    let mut scope = app.store.scope(&auth.caller, &at.space).await?;
    scope.permit_events().await?;
    let space = scope.space()?.id;
    let from = match asked {
        Some(position) => position,
        None => scope.position().await?,
    };
    drop(scope);
    let reader =
        Events { app: app.clone(), standing: Standing::of(&app, &auth), space, resource: query.resource };
    let records = stream::follow(reader, wakes, Topic::Space(space), from);
    Ok(stream::answer(&app, context, upgrade, records))
}

struct Events {
    app: App,
    standing: Standing,
    space: SpaceId,
    resource: Option<Resource>,
}

pub(super) fn singular(resource: &str) -> &str {
    resource.strip_suffix('s').unwrap_or(resource)
}

fn record(e: EventRecord) -> Result<Record, Error> {
    let cursor = e.position.to_string();
    let event = api::SpaceEvent {
        cursor: cursor.clone(),
        kind: format!("{}.{}", singular(&e.resource), e.kind),
        at: e.at,
        session: (e.resource == "messages").then(|| wharf_domain::SessionId::from_uuid(e.id)),
        resource: e.resource,
        id: e.id.to_string(),
        name: e.name,
        data: e.data,
    };
    Record::of(Some(cursor), event.kind.clone(), &event)
}

impl Reader for Events {
    type Cursor = Position;

    async fn read(&mut self, from: Position) -> Result<Batch<Position>, Error> {
        if self.standing.due() {
            let caller = self.standing.caller().await?;
            self.app.store.scope(caller, &NameOrId::Id(self.space)).await?.permit_events().await?;
        }
        let caller = self.standing.caller().await?;
        let page = self.app.store.space_events(caller, self.space, from, self.resource, PAGE).await?;
        let records = page.events.into_iter().map(record).collect::<Result<_, _>>()?;
        Ok(Batch { records, next: page.next, more_soon: page.more_soon, end: false })
    }
}
