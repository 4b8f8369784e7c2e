//! Changes of a list: what `watch=true` sends.
//!
//! The outbox says which thing changed; the thing is read as it is now. So a watcher may see two changes as one, but
//! always ends with the truth, and never misses that something changed.

use std::collections::{BTreeMap, HashSet};

use http::HeaderMap;
use serde::Serialize;
use uuid::Uuid;
use wharf_domain::rbac::Resource;
use wharf_domain::{Code, Error, NameOrId, SpaceId};
use wharf_ports::Topic;
use wharf_store::{Caller, EventRecord, Position, Scope};
use wharf_wire::api;

use crate::app::App;
use crate::extract::{Auth, Flag, last_event_id};
use crate::stream::{self, Batch, Reader, Record, Records, Standing};

/// Events read at a time; each thing in them is read once.
const PAGE: u32 = 100;

/// A list whose changes are followed.
pub(super) trait Watched: Send + 'static {
    const RESOURCE: Resource;
    type Object: Serialize + Send;

    /// The thing as it is now, by its name and as the list shows it; an error where the caller may not have it, none where it is
    /// not among those they asked for.
    fn find(
        &self,
        scope: &mut Scope,
        id: Uuid,
    ) -> impl Future<Output = Result<Option<(String, Self::Object)>, Error>> + Send;
}

/// Whether a list is watched. Refuses what goes with the other way of reading it.
pub(super) fn is_watch(watch: Flag, resource_version: Option<&str>, is_paged: bool) -> Result<bool, Error> {
    let refuse = |field: &str, detail: &str| Err(Error::new(Code::InvalidField, detail).field(field));
    match (watch.0, resource_version) {
        (true, _) if is_paged => refuse("watch", "limit and cursor are for pages, not for a watch"),
        (false, Some(_)) => refuse("resource_version", "resource_version goes with watch=true"),
        (watch, _) => Ok(watch),
    }
}

/// A page with the position from which its changes are watched. Ask for the position before the page is read: what changes
/// between the two is watched again rather than missed.
pub(super) fn page<T>(page: api::Page<T>, position: Position) -> api::WatchPage<T> {
    api::WatchPage {
        items: page.items,
        next_cursor: page.next_cursor,
        resource_version: position.to_string(),
    }
}

pub(super) async fn open<W: Watched>(
    app: &App,
    auth: &Auth,
    space: NameOrId<SpaceId>,
    resource_version: Option<&str>,
    headers: &HeaderMap,
    watched: W,
) -> Result<Records, Error> {
    // A reader that comes back has come further than where it began.
    let asked = last_event_id(headers).or(resource_version);
    let asked: Option<Position> =
        asked.map(str::parse).transpose().map_err(|e: Error| e.field("resource_version"))?;
    let wakes = app.bus.subscribe();
    let mut scope = app.store.scope(&auth.caller, &space).await?;
    scope.allow_watch(W::RESOURCE).await?;
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
        watched,
        absent: HashSet::new(),
    };
    Ok(stream::follow(reader, wakes, Topic::Space(id), from))
}

struct Watch<W> {
    app: App,
    standing: Standing,
    space: SpaceId,
    watched: W,
    /// Things the watcher was told not to have; not told again.
    absent: HashSet<Uuid>,
}

impl<W: Watched> Reader for Watch<W> {
    type Cursor = Position;

    async fn read(&mut self, from: Position) -> Result<Batch<Position>, Error> {
        let caller = self.standing.caller().await?.clone();
        let page = self.app.store.space_events(&caller, self.space, from, Some(W::RESOURCE), PAGE).await?;
        // The last event of each thing, in the order of those last events.
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

impl<W: Watched> Watch<W> {
    async fn change(
        &mut self,
        caller: &Caller,
        event: EventRecord,
        fresh: bool,
    ) -> Result<Option<api::WatchEvent<W::Object>>, Error> {
        let id = event.id;
        let mut scope = self.app.store.scope(caller, &NameOrId::Id(self.space)).await?;
        let found = match self.watched.find(&mut scope, id).await {
            Ok(found) => found,
            Err(e) if matches!(e.code, Code::NotFound | Code::Forbidden) => None,
            Err(e) => return Err(e),
        };
        let told = |change, name, object| {
            let resource_version = String::new();
            Ok(Some(api::WatchEvent { change, resource_version, id: id.to_string(), name, object }))
        };
        match found {
            Some((name, object)) => {
                let added = self.absent.remove(&id) || fresh;
                told(if added { api::Change::Added } else { api::Change::Modified }, name, Some(object))
            }
            None if self.absent.insert(id) && !fresh => {
                told(api::Change::Deleted, event.name.unwrap_or_default(), None)
            }
            None => Ok(None),
        }
    }
}
