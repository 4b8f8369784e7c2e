//! A transaction that acts as somebody, in one space or globally.
//!
//! Everything a request writes goes through one scope: rows, their events, the audit entry and the idempotent
//! reply are committed together, and wake-ups leave after that. A scope that is dropped changes nothing. A commit
//! by a principal that changed something without an audit entry is refused.

use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;
use wharf_domain::quota::Quotas;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, Name, NameOrId, SpaceId, Time};
use wharf_ports::Topic;

use crate::audit::{Entry, Outcome};
use crate::caller::{Caller, PrincipalKind, Visible};
use crate::error::OrDomain as _;
use crate::events::Event;
use crate::idempotency::IdempotencyHandle;
use crate::permit::{New, Permit};
use crate::store::Store;

/// The space a scope works in.
#[derive(Clone, Debug)]
pub struct SpaceRef {
    pub id: SpaceId,
    pub name: Name,
    pub quotas: Quotas,
    /// What sessions of this space get when they do not say.
    pub defaults: serde_json::Value,
}

pub struct Scope {
    pub(crate) store: Store,
    pub(crate) caller: Caller,
    space: Option<SpaceRef>,
    /// `None` after a denial ended the transaction.
    tx: Option<Transaction<'static, Postgres>>,
    now: Time,
    audits: Vec<Entry>,
    events: Vec<Event>,
    wakes: Vec<Topic>,
    idempotency: Option<IdempotencyHandle>,
}

/// A row that can be asked for by name or id.
pub(crate) trait Row {
    const KIND: &'static str;
    const RESOURCE: Resource;
    fn uuid(&self) -> Uuid;
    fn name(&self) -> Option<&str>;
    /// The space whose grants count for this row; by default the scope's.
    fn at(&self, scope: Option<SpaceId>) -> Option<SpaceId> {
        scope
    }
}

impl Scope {
    pub(crate) async fn begin(store: &Store, caller: &Caller) -> Result<Self, Error> {
        let tx = store.begin().await?;
        Ok(Self {
            store: store.clone(),
            caller: caller.clone(),
            space: None,
            tx: Some(tx),
            now: store.now(),
            audits: Vec::new(),
            events: Vec::new(),
            wakes: Vec::new(),
            idempotency: None,
        })
    }

    /// Opens the scope in a space, or answers 404 where the caller may not know of it.
    pub(crate) async fn enter(mut self, space: &NameOrId<SpaceId>) -> Result<Self, Error> {
        let found = crate::spaces::find_ref(self.tx()?, space).await?;
        match found {
            Some(s) if self.caller.knows(s.id) => {
                self.space = Some(s);
                Ok(self)
            }
            Some(s) => {
                let e = self
                    .denied(Resource::Spaces, Verb::Get, Some(s.id.uuid()), Some(s.name.as_str()), None)
                    .await;
                Err(e.unwrap_or_else(|| Error::not_found("space", space)))
            }
            None => Err(Error::not_found("space", space)),
        }
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The time of this transaction, from the clock.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The space of this scope; a global scope has none.
    pub fn space(&self) -> Result<&SpaceRef, Error> {
        self.space.as_ref().ok_or_else(|| Error::internal("a global scope was used where a space is needed"))
    }

    pub fn space_id(&self) -> Option<SpaceId> {
        self.space.as_ref().map(|s| s.id)
    }

    /// The transaction itself, for the repositories of this crate.
    pub(crate) fn tx(&mut self) -> Result<&mut PgConnection, Error> {
        self.tx.as_deref_mut().ok_or_else(|| Error::internal("the scope ended with a denial"))
    }

    /// Reserves (or releases) of the space's quotas in this transaction.
    pub async fn reserve(&mut self, delta: crate::quota::Delta) -> Result<(), Error> {
        let space = self.space()?.id;
        crate::quota::reserve(self.tx()?, space, delta).await
    }

    /// Notes what was done; written with the commit.
    pub fn audit(
        &mut self,
        verb: Verb,
        resource: Resource,
        id: Option<Uuid>,
        name: Option<&str>,
        detail: serde_json::Value,
    ) {
        let entry = self.entry(verb.as_str(), resource.as_str(), id, name, Outcome::Allowed, detail);
        self.audits.push(entry);
    }

    /// Notes an outcome other than a plain success, or a word that is no verb of the matrix (`login`, `rotate`).
    pub fn audit_as(
        &mut self,
        verb: &str,
        resource: &str,
        id: Option<Uuid>,
        name: Option<&str>,
        outcome: Outcome,
        detail: serde_json::Value,
    ) {
        let entry = self.entry(verb, resource, id, name, outcome, detail);
        self.audits.push(entry);
    }

    fn entry(
        &self,
        verb: &str,
        resource: &str,
        id: Option<Uuid>,
        name: Option<&str>,
        outcome: Outcome,
        detail: serde_json::Value,
    ) -> Entry {
        let space = self.space.as_ref().map(|s| (s.id, s.name.as_str()));
        Entry::of(&self.caller, space, verb, resource, id, name, outcome, detail)
    }

    /// Adds an event of this scope's space to the outbox; written with the commit, which wakes the space.
    pub fn emit(&mut self, event: Event) {
        let space = event.space.or(self.space_id());
        if let Some(space) = space {
            self.wake(Topic::Space(space));
        }
        self.events.push(Event { space, ..event });
    }

    /// Wakes the topic's subscribers after the commit.
    pub fn wake(&mut self, topic: Topic) {
        if !self.wakes.contains(&topic) {
            self.wakes.push(topic);
        }
    }

    /// Makes the commit store its reply under the key (see [`Scope::commit_reply`]).
    pub fn idempotent(&mut self, handle: IdempotencyHandle) {
        self.idempotency = Some(handle);
    }

    /// Commits and wakes. With an idempotency handle use [`Self::commit_reply`] instead, or the key is given up.
    pub async fn commit(mut self) -> Result<(), Error> {
        self.flush().await?;
        self.finish().await
    }

    /// Commits, storing what the caller is answered in the same transaction, so that a repeat gets the same.
    pub async fn commit_reply<T: serde::Serialize>(mut self, status: u16, reply: &T) -> Result<(), Error> {
        self.flush().await?;
        let now = self.now;
        if let Some(mut handle) = self.idempotency.take() {
            let body = serde_json::to_value(reply).map_err(Error::internal)?;
            handle.store_reply(self.tx()?, status, &body, now).await?;
            self.finish().await?;
            handle.done();
            return Ok(());
        }
        self.finish().await
    }

    /// In a task of its own, because a caller may go away in the middle: what is committed must wake whom it concerns.
    /// So must a commit whose answer was lost; a wake-up says "look", not what there is to see.
    async fn finish(mut self) -> Result<(), Error> {
        let tx = self.tx.take().ok_or_else(|| Error::internal("the scope ended with a denial"))?;
        let (store, wakes) = (self.store.clone(), std::mem::take(&mut self.wakes));
        let commit = tokio::spawn(async move {
            let committed = tx.commit().await.or_domain();
            for topic in wakes {
                store.wake(topic);
            }
            committed
        });
        commit.await.map_err(Error::internal)?
    }

    /// Writes the collected audit entries and events in one statement.
    async fn flush(&mut self) -> Result<(), Error> {
        let (audits, events) = (std::mem::take(&mut self.audits), std::mem::take(&mut self.events));
        if audits.is_empty() {
            self.refuse_unaudited().await?;
        } else {
            self.wake(Topic::Audit);
        }
        if audits.is_empty() && events.is_empty() {
            return Ok(());
        }
        let now = self.now;
        crate::events::write(self.tx()?, &audits, &events, now).await
    }

    async fn refuse_unaudited(&mut self) -> Result<(), Error> {
        if self.caller.identity.kind == PrincipalKind::System {
            return Ok(());
        }
        let changed: bool = sqlx::query_scalar("select pg_current_xact_id_if_assigned() is not null")
            .fetch_one(self.tx()?)
            .await
            .or_domain()?;
        if changed {
            return Err(Error::internal(
                "a change by a principal was about to be committed without an audit entry",
            ));
        }
        Ok(())
    }

    /// Allows making one `R`, or answers 403 (404 where the caller may not even look at its kind).
    pub(crate) async fn allow_new<R: Row>(&mut self, name: Option<&str>) -> Result<Permit<New<R>>, Error> {
        let at = self.space_id();
        if self.caller.may(at, R::RESOURCE, Verb::Create, name) {
            return Ok(New::permit());
        }
        let denied = self.denied(R::RESOURCE, Verb::Create, None, name, None).await;
        Err(denied.unwrap_or_else(|| forbidden(Verb::Create, R::RESOURCE, name)))
    }

    /// Judges a verb on a row that was looked for as `asked`.
    pub(crate) async fn judge<R: Row>(
        &mut self,
        asked: &str,
        row: Option<R>,
        verb: Verb,
    ) -> Result<Permit<R>, Error> {
        let scope = self.space_id();
        let Some(row) = row else {
            let refused = !self.caller.may(scope, R::RESOURCE, Verb::Get, Some(asked))
                && !self.caller.may(scope, R::RESOURCE, verb, Some(asked));
            if refused && let Some(e) = self.denied(R::RESOURCE, verb, None, Some(asked), None).await {
                return Err(e);
            }
            return Err(Error::not_found(R::KIND, asked));
        };
        let at = row.at(scope);
        if self.caller.may(at, R::RESOURCE, verb, row.name()) {
            return Ok(Permit::grant(row, verb));
        }
        let knows = self.caller.may(at, R::RESOURCE, Verb::Get, row.name());
        let name = row.name().map(str::to_owned);
        let space = at.filter(|_| scope.is_none());
        if let Some(e) = self.denied(R::RESOURCE, verb, Some(row.uuid()), name.as_deref(), space).await {
            return Err(e);
        }
        Err(if knows {
            forbidden(verb, R::RESOURCE, name.as_deref())
        } else {
            Error::not_found(R::KIND, asked)
        })
    }

    /// What a list shows, or 403 when it would show nothing whatever there is.
    /// Allows watching lists of these, or answers 403.
    pub async fn allow_watch(&mut self, resource: Resource) -> Result<(), Error> {
        self.listing(resource, Verb::Watch).await.map(drop)
    }

    pub(crate) async fn listing(&mut self, resource: Resource, verb: Verb) -> Result<Visible, Error> {
        match self.caller.visible(self.space_id(), resource, verb) {
            Visible::Nothing => {
                let denied = self.denied(resource, verb, None, None, None).await;
                Err(denied.unwrap_or_else(|| forbidden(verb, resource, None)))
            }
            some => Ok(some),
        }
    }

    /// Ends the transaction and records the denial in one of its own. `Some` only when that failed.
    pub(crate) async fn denied(
        &mut self,
        resource: Resource,
        verb: Verb,
        id: Option<Uuid>,
        name: Option<&str>,
        space: Option<SpaceId>,
    ) -> Option<Error> {
        let mut entry =
            self.entry(verb.as_str(), resource.as_str(), id, name, Outcome::Denied, serde_json::json!({}));
        entry.space_id = entry.space_id.or(space.map(SpaceId::uuid));
        if let Some(tx) = self.tx.take()
            && let Err(e) = tx.rollback().await
        {
            return Some(crate::error::from_sqlx(e));
        }
        self.store.record_denial(entry).await.err()
    }
}

pub(crate) fn forbidden(verb: Verb, resource: Resource, name: Option<&str>) -> Error {
    let what = name.map_or_else(|| resource.as_str().to_owned(), |n| format!("{} {n}", resource.as_str()));
    Error::new(
        Code::Forbidden,
        format!("you may not {verb} {what}; ask for a role with that verb, or see POST /v1/access-review"),
    )
}
