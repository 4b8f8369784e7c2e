//! Connections of a space: which requests of its sessions get which secret, put in outside.
//!
//! Whoever points a secret at a host can read it there, so naming one takes the verb `read-values` on it.

use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;
use wharf_domain::egress::Pattern;
use wharf_domain::egress::rule::{Match, Placement, Ssh};
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::ssh::HostKey;
use wharf_domain::{Code, ConnectionId, Error, Labels, Name, NameOrId, SecretId, Time, limits};

use crate::error::OrDomain as _;
use crate::events::Event;
use crate::page::{Page, PageRequest};
use crate::permit::{New, Permit, locked};
use crate::scope::{Row, Scope};
use crate::spaces::{check_version, from_json, name, split, time, to_json};

/// A connection without its secret's value.
#[derive(Clone, Debug)]
pub struct Connection {
    pub id: ConnectionId,
    pub name: Name,
    pub labels: Labels,
    pub rule: Match,
    pub placement: Placement,
    pub secret: Name,
    pub secret_id: SecretId,
    pub resource_version: i64,
    pub created_at: Time,
    pub updated_at: Time,
}

impl Row for Connection {
    const KIND: &'static str = "connection";
    const RESOURCE: Resource = Resource::Connections;
    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }
    fn name(&self) -> Option<&str> {
        Some(self.name.as_str())
    }
}

pub struct NewConnection {
    pub name: Name,
    pub rule: Match,
    pub placement: Placement,
    pub secret: Name,
    pub labels: Labels,
}

/// What a patch sets; `None` leaves it.
#[derive(Default)]
pub struct ConnectionPatch {
    pub rule: Option<Match>,
    /// How and what is put in.
    pub inject: Option<(Placement, Name)>,
    pub labels: Option<Labels>,
}

pub struct Connections<'s>(&'s mut Scope);

impl Scope {
    pub fn connections(&mut self) -> Connections<'_> {
        Connections(self)
    }
}

macro_rules! columns {
    () => {
        "c.id, c.name, c.labels, c.host, c.methods, c.path_prefix, c.kind, c.target, c.prefix, c.host_keys, \
         c.push, c.secret_id, s.name as secret_name, c.resource_version, c.created_at, c.updated_at"
    };
}
pub(super) use columns;

/// How a placement is kept.
struct Kept<'p> {
    kind: &'static str,
    target: &'p str,
    prefix: &'p str,
    host_keys: Vec<&'p str>,
    push: bool,
}

fn parts(placement: &Placement) -> Kept<'_> {
    let kept = |kind, target, prefix| Kept { kind, target, prefix, host_keys: Vec::new(), push: false };
    match placement {
        Placement::Header { name, prefix } => kept("header", name, prefix),
        Placement::Query { name } => kept("query", name, ""),
        Placement::Basic { user } => kept("basic", user, ""),
        Placement::Ssh(ssh) => Kept {
            host_keys: ssh.host_keys.iter().map(HostKey::as_str).collect(),
            push: ssh.push,
            ..kept("ssh", ssh.user.as_deref().unwrap_or_default(), "")
        },
    }
}

impl Connections<'_> {
    pub async fn permit(
        &mut self,
        at: &NameOrId<ConnectionId>,
        verb: Verb,
    ) -> Result<Permit<Connection>, Error> {
        let space = self.0.space()?.id;
        let (id, named) = split(at);
        let row = sqlx::query(locked!(
            verb,
            " for no key update of c",
            "select ",
            columns!(),
            " from connections c join secrets s on s.id = c.secret_id
              where c.space_id = $1 and (c.id = $2 or c.name = $3)"
        ))
        .bind(space.uuid())
        .bind(id)
        .bind(named)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let row = row.as_ref().map(read).transpose()?;
        self.0.judge(&at.to_string(), row, verb).await
    }

    pub async fn allow(&mut self, name: &Name) -> Result<Permit<New<Connection>>, Error> {
        self.0.allow_new::<Connection>(Some(name.as_str())).await
    }

    pub async fn create(
        &mut self,
        _permit: &Permit<New<Connection>>,
        new: NewConnection,
    ) -> Result<Connection, Error> {
        let secret = self.usable(&new.secret).await?;
        let space = self.0.space()?.id;
        let count: i64 = sqlx::query_scalar("select count(*) from connections where space_id = $1")
            .bind(space.uuid())
            .fetch_one(self.0.tx()?)
            .await
            .or_domain()?;
        if count as usize >= limits::CONNECTIONS {
            return Err(Error::new(
                Code::QuotaExceeded,
                format!(
                    "a space has up to {} connections (CONNECTIONS); delete one first",
                    limits::CONNECTIONS
                ),
            ));
        }
        let now = self.0.now();
        let kept = parts(&new.placement);
        let row = sqlx::query(concat!(
            "with c as (
                insert into connections (id, space_id, name, labels, host, methods, path_prefix, kind, target, prefix,
                    host_keys, push, secret_id, created_at, updated_at)
                values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14) returning *
             ) select ",
            columns!(),
            " from c join secrets s on s.id = c.secret_id"
        ))
        .bind(ConnectionId::new().uuid())
        .bind(space.uuid())
        .bind(new.name.as_str())
        .bind(to_json(&new.labels)?)
        .bind(new.rule.host.to_string())
        .bind(&new.rule.methods)
        .bind(&new.rule.path_prefix)
        .bind(kept.kind)
        .bind(kept.target)
        .bind(kept.prefix)
        .bind(&kept.host_keys)
        .bind(kept.push)
        .bind(secret.uuid())
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let made = read(&row)?;
        self.note("created", Verb::Create, &made);
        Ok(made)
    }

    pub async fn list(&mut self, request: &PageRequest) -> Result<Page<Connection>, Error> {
        let space = self.0.space()?.id;
        let visible = self.0.listing(Resource::Connections, Verb::List).await?;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from connections c join secrets s on s.id = c.secret_id
             where c.space_id = $1 and c.id > $2 and ($3::text[] is null or c.name = any($3))
               and c.labels @> $4 and c.labels ?& $5
             order by c.id limit $6"
        ))
        .bind(space.uuid())
        .bind(request.after())
        .bind(visible.names())
        .bind(request.label_pairs())
        .bind(request.label_keys())
        .bind(request.fetch())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(rows, |c| c.id.uuid()))
    }

    /// Anything but labels moves a secret, so it takes the right to read it, old or new.
    pub async fn update(
        &mut self,
        permit: &Permit<Connection>,
        patch: ConnectionPatch,
        if_version: Option<i64>,
    ) -> Result<Connection, Error> {
        permit.demand(Verb::Update)?;
        check_version(permit.resource_version, if_version)?;
        let rule = patch.rule.as_ref().unwrap_or(&permit.rule);
        let (placement, secret) = match &patch.inject {
            Some((placement, secret)) => (placement, secret),
            None => (&permit.placement, &permit.secret),
        };
        let secret_id = if patch.rule.is_some() || patch.inject.is_some() {
            self.usable(secret).await?
        } else {
            permit.secret_id
        };
        let now = self.0.now();
        let kept = parts(placement);
        let row = sqlx::query(concat!(
            "with c as (
                update connections set labels = coalesce($2, labels), host = $3, methods = $4, path_prefix = $5, kind = $6,
                    target = $7, prefix = $8, host_keys = $9, push = $10, secret_id = $11,
                    resource_version = resource_version + 1, updated_at = $12
                where id = $1 returning *
             ) select ",
            columns!(),
            " from c join secrets s on s.id = c.secret_id"
        ))
        .bind(permit.id.uuid())
        .bind(patch.labels.as_ref().map(to_json).transpose()?)
        .bind(rule.host.to_string())
        .bind(&rule.methods)
        .bind(&rule.path_prefix)
        .bind(kept.kind)
        .bind(kept.target)
        .bind(kept.prefix)
        .bind(&kept.host_keys)
        .bind(kept.push)
        .bind(secret_id.uuid())
        .bind(now.to_utc())
        .fetch_one(self.0.tx()?)
        .await
        .or_domain()?;
        let changed = read(&row)?;
        self.note("updated", Verb::Update, &changed);
        Ok(changed)
    }

    pub async fn delete(
        &mut self,
        permit: &Permit<Connection>,
        if_version: Option<i64>,
    ) -> Result<(), Error> {
        permit.demand(Verb::Delete)?;
        check_version(permit.resource_version, if_version)?;
        sqlx::query("delete from connections where id = $1")
            .bind(permit.id.uuid())
            .execute(self.0.tx()?)
            .await
            .or_domain()?;
        self.note("deleted", Verb::Delete, permit.row());
        Ok(())
    }

    /// The secret, where the caller may read its value.
    async fn usable(&mut self, secret: &Name) -> Result<SecretId, Error> {
        let at = NameOrId::Name(secret.clone());
        let judged = self.0.secrets().permit(&at, Verb::ReadValues).await;
        judged.map(|permit| permit.id).map_err(|e| match e.code {
            Code::NotFound => Error::new(
                Code::InvalidReference,
                format!("there is no secret {secret} in the space; make it first"),
            )
            .field("inject.secret"),
            Code::Forbidden => Error::new(
                Code::Forbidden,
                format!("a connection sends secret {secret} out, which takes the verb read-values on it"),
            )
            .field("inject.secret"),
            _ => e,
        })
    }

    fn note(&mut self, kind: &str, verb: Verb, c: &Connection) {
        let (id, name) = (c.id.uuid(), Some(c.name.as_str()));
        let kept = parts(&c.placement);
        let mut detail = json!({
            "host": c.rule.host, "methods": c.rule.methods, "path_prefix": c.rule.path_prefix, "inject": kept.kind,
            "target": kept.target, "secret": c.secret,
        });
        if c.placement.as_ssh().is_some() {
            detail["host_keys"] = json!(kept.host_keys);
            detail["push"] = json!(kept.push);
        }
        self.0.audit(verb, Resource::Connections, Some(id), name, detail.clone());
        self.0.emit(Event::new(kind, Resource::Connections, id, name, c.resource_version, detail));
    }
}

pub(super) fn read(row: &PgRow) -> Result<Connection, Error> {
    let host: Pattern = row.try_get::<&str, _>("host").or_domain()?.parse()?;
    let target: String = row.try_get("target").or_domain()?;
    let placement = match row.try_get::<&str, _>("kind").or_domain()? {
        "header" => Placement::Header { name: target, prefix: row.try_get("prefix").or_domain()? },
        "query" => Placement::Query { name: target },
        "ssh" => {
            let keys: Vec<String> = row.try_get("host_keys").or_domain()?;
            Placement::Ssh(Ssh {
                user: Some(target).filter(|user| !user.is_empty()),
                host_keys: keys.iter().map(|key| key.parse()).collect::<Result<_, _>>()?,
                push: row.try_get("push").or_domain()?,
            })
        }
        _ => Placement::Basic { user: target },
    };
    Ok(Connection {
        id: ConnectionId::from_uuid(row.try_get("id").or_domain()?),
        name: name(row, "name")?,
        labels: from_json(row.try_get("labels").or_domain()?)?,
        rule: Match {
            host,
            methods: row.try_get("methods").or_domain()?,
            path_prefix: row.try_get("path_prefix").or_domain()?,
        },
        placement,
        secret: name(row, "secret_name")?,
        secret_id: SecretId::from_uuid(row.try_get("secret_id").or_domain()?),
        resource_version: row.try_get("resource_version").or_domain()?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}
