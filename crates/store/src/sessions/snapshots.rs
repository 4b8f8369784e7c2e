//! Snapshots: resources of their own with a reference to the session they are of, which may be gone.
//!
//! Snapshots that forks of a present state make for themselves are not among them.

use serde_json::json;
use sqlx::types::Json;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::session::State;
use wharf_domain::{Error, Labels, Name, NameOrId, SessionId, SnapshotId};
use wharf_ports::Topic;

use super::refused;
use super::row::{self, SessionRow, SnapshotRow, snapshot_columns};
use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit};
use crate::quota::{self, Delta};
use crate::scope::Scope;

/// Snapshots of the scope's space.
pub struct Snapshots<'s>(&'s mut Scope);

impl Scope {
    pub fn snapshots(&mut self) -> Snapshots<'_> {
        Snapshots(self)
    }
}

#[derive(Clone, Debug, Default)]
pub struct NewSnapshot {
    /// Made up when absent.
    pub name: Option<Name>,
    pub labels: Labels,
}

#[derive(Clone, Debug, Default)]
pub struct SnapshotPatch {
    pub name: Option<Name>,
    pub labels: Option<Labels>,
}

impl Snapshots<'_> {
    pub async fn permit(&mut self, id: SnapshotId, verb: Verb) -> Result<Permit<SnapshotRow>, Error> {
        let space = self.0.space()?.id.uuid();
        let row = sqlx::query(concat!(
            "select ",
            snapshot_columns!(),
            " from snapshots p where p.space_id = $1 and p.id = $2 and p.deleted_at is null and not p.for_fork"
        ))
        .bind(space)
        .bind(id.uuid())
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(row::snapshot).transpose().or_domain()?;
        self.0.judge(&id.to_string(), row, verb).await
    }

    /// The same for one of a session, by its name there or its id. Verbs that change something hold the row.
    pub async fn permit_of(
        &mut self,
        session: SessionId,
        at: &NameOrId<SnapshotId>,
        verb: Verb,
    ) -> Result<Permit<SnapshotRow>, Error> {
        let space = self.0.space()?.id.uuid();
        let (id, name) = match at {
            NameOrId::Id(id) => (Some(id.uuid()), None),
            NameOrId::Name(name) => (None, Some(name.as_str())),
        };
        let row = sqlx::query(concat!(
            "select ",
            snapshot_columns!(),
            " from snapshots p where p.space_id = $1 and p.session_id = $2 and (p.id = $3 or p.name = $4) \
              and p.deleted_at is null and not p.for_fork for no key update"
        ))
        .bind(space)
        .bind(session.uuid())
        .bind(id)
        .bind(name)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(row::snapshot).transpose().or_domain()?;
        self.0.judge(&at.to_string(), row, verb).await
    }

    pub async fn allow(&mut self, name: Option<&Name>) -> Result<Permit<New<SnapshotRow>>, Error> {
        self.0.allow_new::<SnapshotRow>(name.map(Name::as_str)).await
    }

    /// Of one session, or of the whole space.
    pub async fn list(
        &mut self,
        of: Option<SessionId>,
        page: &PageRequest,
    ) -> Result<Page<SnapshotRow>, Error> {
        let seen = self.0.listing(Resource::Snapshots, Verb::List).await?;
        let space = self.0.space()?.id.uuid();
        let rows = sqlx::query(concat!(
            "select ",
            snapshot_columns!(),
            " from snapshots p where p.space_id = $1 and p.deleted_at is null and not p.for_fork and p.id > $2 \
              and ($3::uuid is null or p.session_id = $3) and p.labels @> $4 and p.labels ?& $5 \
              and ($6::text[] is null or p.name = any($6)) order by p.id limit $7"
        ))
        .bind(space)
        .bind(page.after())
        .bind(of.map(SessionId::uuid))
        .bind(page.label_pairs())
        .bind(page.label_keys())
        .bind(seen.names())
        .bind(page.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(row::snapshot).collect::<Result<Vec<_>, _>>().or_domain()?;
        Ok(page.page(rows, |p| p.id.uuid()))
    }

    /// Asks for a snapshot; the reconciler takes it, of a running session within milliseconds. Its disk limit is
    /// reserved, because its content may grow apart from the session's.
    pub async fn create(
        &mut self,
        _permit: &Permit<New<SnapshotRow>>,
        session: &Permit<SessionRow>,
        new: NewSnapshot,
    ) -> Result<SnapshotRow, Error> {
        let s = self.0.sessions().lock(session.row().id).await?;
        if s.deleted_at.is_some() {
            return Err(Error::not_found("session", &s.name));
        }
        if s.state == State::Error && !s.volume_made {
            return Err(refused(&s, "a snapshot", "it has no files; restore it first"));
        }
        let id = SnapshotId::new();
        let name = new
            .name
            .map_or_else(|| format!("snapshot-{}", &id.uuid().simple().to_string()[24..]).parse(), Ok)?;
        let row = sqlx::query(concat!(
            "with p as (
                insert into snapshots (id, space_id, session_id, volume_id, name, state, image_name, image_digest,
                    disk_mib, disk_reserved, message_seq, labels, created_at, updated_at, runtime)
                values ($1, $2, $3, $4, $5, 'pending', $6, $7, $8, true, $9, $10, $11, $11, $12) returning *
             ) select ",
            snapshot_columns!(),
            " from p"
        ))
        .bind(id.uuid())
        .bind(s.space.uuid())
        .bind(s.id.uuid())
        .bind(s.volume.uuid())
        .bind(name.as_str())
        .bind(s.image.name.as_str())
        .bind(&s.image.digest)
        .bind(s.resources.disk_mib as i32)
        .bind(s.last_seq)
        .bind(Json(&new.labels))
        .bind(self.0.now().to_utc())
        .bind(&s.runtime)
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let delta = Delta { disk_mib: i64::from(s.resources.disk_mib), ..Delta::default() };
        quota::reserve(self.0.tx()?, s.space, delta).await?;
        let snapshot = row::snapshot(&row).or_domain()?;
        self.note("created", Verb::Create, &snapshot);
        Ok(snapshot)
    }

    pub async fn update(
        &mut self,
        permit: &Permit<SnapshotRow>,
        patch: SnapshotPatch,
    ) -> Result<SnapshotRow, Error> {
        let row = sqlx::query(concat!(
            "with p as (
                update snapshots set name = coalesce($2, name), labels = coalesce($3, labels),
                    resource_version = resource_version + 1, updated_at = $4
                where id = $1 and deleted_at is null returning *
             ) select ",
            snapshot_columns!(),
            " from p"
        ))
        .bind(permit.row().id.uuid())
        .bind(patch.name.as_ref().map(Name::as_str))
        .bind(patch.labels.map(Json))
        .bind(self.0.now().to_utc())
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?
        .ok_or_else(|| Error::not_found("snapshot", permit.row().id))?;
        let snapshot = row::snapshot(&row).or_domain()?;
        self.note("updated", Verb::Update, &snapshot);
        Ok(snapshot)
    }

    /// Forks that were made from it stand on their own; one that is just being made keeps it for that long.
    pub async fn delete(&mut self, permit: &Permit<SnapshotRow>) -> Result<(), Error> {
        let now = self.0.now().to_utc();
        sqlx::query(
            "update snapshots set deleted_at = $2, updated_at = $2, resource_version = resource_version + 1
             where id = $1 and deleted_at is null",
        )
        .bind(permit.row().id.uuid())
        .bind(now)
        .execute(self.0.tx()?)
        .await
        .or_domain()?;
        self.note("deleted", Verb::Delete, permit.row());
        Ok(())
    }

    fn note(&mut self, kind: &str, verb: Verb, p: &SnapshotRow) {
        let (id, name) = (p.id.uuid(), Some(p.name.as_str()));
        let data = json!({"session": p.session, "labels": p.labels});
        let event =
            Event::new(kind, Resource::Snapshots, id, name, p.resource_version, data).in_space(p.space);
        self.0.emit(event);
        self.0.audit(verb, Resource::Snapshots, Some(id), name, json!({"session": p.session}));
        self.0.wake(Topic::Session(p.session));
    }
}
