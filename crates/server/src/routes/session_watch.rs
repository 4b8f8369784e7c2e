//! Changes of a list of sessions.
//!
//! The outbox says which session changed; the session is read as it is now. So a watcher may see two changes as one, but
//! always ends with the truth, and never misses that something changed.

use std::collections::{BTreeMap, HashSet};

use http::HeaderMap;
use wharf_domain::labels::Selector;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, NameOrId, SessionId, SpaceId};
use wharf_ports::Topic;
use wharf_store::sessions::SessionFilter;
use wharf_store::{EventRecord, Position};
use wharf_wire::api;

use super::sessions::SessionsQuery;
use super::view;
use crate::app::App;
use crate::extract::{Auth, last_event_id};
use crate::stream::{self, Batch, Reader, Record, Records, Standing};

/// Events read at a time; each session in them is read once.
const PAGE: u32 = 100;

pub(super) async fn open(
    app: &App,
    auth: &Auth,
    space: NameOrId<SpaceId>,
    query: &SessionsQuery,
    labels: Selector,
    headers: &HeaderMap,
) -> Result<Records, Error> {
    // A reader that comes back has come further than where it began.
    let asked = last_event_id(headers).or(query.resource_version.as_deref());
    let asked: Option<Position> =
        asked.map(str::parse).transpose().map_err(|e: Error| e.field("resource_version"))?;
    let wakes = app.bus.subscribe();
    let mut scope = app.store.scope(&auth.caller, &space).await?;
    scope.sessions().allow_watch().await?;
    let id = scope.space()?.id;
    let from = match asked {
        Some(position) => position,
        None => scope.position().await?,
    };
    drop(scope);
    let reader = Watch {
        app: app.clone(),
        standing: Standing::of(app, auth),
        space: id,
        filter: query.filter(),
        labels,
        absent: HashSet::new(),
    };
    Ok(stream::follow(reader, wakes, Topic::Space(id), from))
}

struct Watch {
    app: App,
    standing: Standing,
    space: SpaceId,
    filter: SessionFilter,
    labels: Selector,
    /// Sessions the watcher was told not to have; not told again.
    absent: HashSet<SessionId>,
}

impl Reader for Watch {
    type Cursor = Position;

    async fn read(&mut self, from: Position) -> Result<Batch<Position>, Error> {
        let caller = self.standing.caller().await?.clone();
        let page =
            self.app.store.space_events(&caller, self.space, from, Some(Resource::Sessions), PAGE).await?;
        // The last event of each session, in the order of those last events.
        let mut last: BTreeMap<Position, EventRecord> = BTreeMap::new();
        let mut made = HashSet::new();
        for event in page.events {
            if event.kind == "created" {
                made.insert(event.id);
            }
            last.retain(|_, e| e.id != event.id);
            last.insert(event.position, event);
        }
        let mut records = Vec::with_capacity(last.len());
        for (position, event) in last {
            let fresh = made.contains(&event.id);
            if let Some(change) = self.change(&caller, event, fresh).await? {
                let word = match change.change {
                    api::Change::Added => "added",
                    api::Change::Modified => "modified",
                    api::Change::Deleted => "deleted",
                };
                let change = api::WatchEvent { resource_version: position.to_string(), ..change };
                records.push(Record::of(Some(position.to_string()), word, &change)?);
            }
        }
        Ok(Batch { records, next: page.next, more_soon: page.more_soon, end: false })
    }
}

impl Watch {
    async fn change(
        &mut self,
        caller: &wharf_store::Caller,
        event: EventRecord,
        fresh: bool,
    ) -> Result<Option<api::WatchEvent<api::Session>>, Error> {
        let id = SessionId::from_uuid(event.id);
        let mut scope = self.app.store.scope(caller, &NameOrId::Id(self.space)).await?;
        let space = scope.space()?.name.clone();
        let found = match scope.sessions().permit(&NameOrId::Id(id), Verb::Watch).await {
            Ok(permit) => Some(view::session(&space, permit.into_row())?),
            Err(e) if matches!(e.code, Code::NotFound | Code::Forbidden) => None,
            Err(e) => return Err(e),
        };
        let found = found.filter(|s| self.matches(s));
        let name = found.as_ref().map_or_else(|| event.name.unwrap_or_default(), |s| s.name.to_string());
        let told = |change, object| {
            Ok(Some(api::WatchEvent {
                change,
                resource_version: String::new(),
                id: id.to_string(),
                name,
                object,
            }))
        };
        match found {
            Some(session) => {
                let added = self.absent.remove(&id) || fresh;
                told(if added { api::Change::Added } else { api::Change::Modified }, Some(session))
            }
            None if self.absent.insert(id) && !fresh => told(api::Change::Deleted, None),
            None => Ok(None),
        }
    }

    fn matches(&self, s: &api::Session) -> bool {
        self.labels.matches(&s.labels)
            && self.filter.state.is_none_or(|state| state == s.state)
            && self.filter.agent.as_deref().is_none_or(|kind| kind == s.agent.kind.as_str())
    }
}
