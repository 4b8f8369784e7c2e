//! Makes sessions: new ones and forks.
//!
//! One transaction admits: quotas reserved, row, first log entry, the messages that come along, the first message,
//! and for a fork of a session the snapshot it will stand on. The reconciler does the rest.

use serde_json::{Map, Value, json};
use sqlx::types::Json;
use wharf_domain::egress::Policy;
use wharf_domain::image::ImageRef;
use wharf_domain::quota::Resources;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, Labels, Name, SessionId, SnapshotId, VolumeId, limits};

use super::row::{self, Env, Parent, SessionRow, SnapshotRow, SnapshotState, session_columns};
use super::{Sessions, refused};
use crate::error::OrDomain as _;
use crate::permit::{New, Permit};
use crate::quota::{self, Delta};

/// A session to be made. The server has filled in the space's defaults.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Made up when absent.
    pub name: Option<Name>,
    /// Its newest version is taken. Not looked at for a fork with files, which stands on its parent's.
    pub image: Name,
    /// Which runtime's version of the image; any when absent. Not looked at for a fork with files either.
    pub runtime: Option<String>,
    pub resources: Resources,
    pub agent: Value,
    /// All of them where there are several, the default one first; else empty.
    pub agents: Vec<Value>,
    pub env: Env,
    pub network: Policy,
    pub instructions: Option<String>,
    pub setup: Option<String>,
    pub allow_root: bool,
    /// The first message: a list of blocks.
    pub prompt: Option<Value>,
    /// 0 means never.
    pub idle_timeout_seconds: u32,
    pub turn_timeout_seconds: u32,
    pub labels: Labels,
    pub metadata: Map<String, Value>,
    pub from: Option<(Source, Include)>,
}

impl NewSession {
    pub fn of(image: Name) -> Self {
        Self {
            name: None,
            image,
            runtime: None,
            resources: Resources::default(),
            agent: json!({"kind": "shell"}),
            agents: Vec::new(),
            env: Env::default(),
            network: Policy::default(),
            instructions: None,
            setup: None,
            allow_root: true,
            prompt: None,
            idle_timeout_seconds: limits::IDLE_TIMEOUT_SECONDS,
            turn_timeout_seconds: limits::TURN_TIMEOUT_SECONDS,
            labels: Labels::default(),
            metadata: Map::new(),
            from: None,
        }
    }
}

/// What a fork comes from. Rows as a permit to read them gave them.
#[derive(Clone, Debug)]
pub enum Source {
    Session(Box<SessionRow>),
    Snapshot(Box<SnapshotRow>),
}

impl Source {
    /// Which runtime holds its files, and so runs a fork with them.
    pub fn runtime(&self) -> &str {
        match self {
            Self::Session(row) => &row.runtime,
            Self::Snapshot(row) => &row.runtime,
        }
    }
}

/// What of its source a fork gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Include {
    pub files: bool,
    pub messages: bool,
}

/// A fork to be made; what is absent is as in the parent.
#[derive(Clone, Debug)]
pub struct NewFork {
    pub name: Option<Name>,
    /// One of the parent's snapshots; its present state when absent.
    pub snapshot: Option<Box<SnapshotRow>>,
    pub include: Include,
    pub resources: Option<Resources>,
    pub network: Option<Policy>,
    pub labels: Option<Labels>,
    pub metadata: Option<Map<String, Value>>,
    pub prompt: Option<Value>,
}

impl Sessions<'_> {
    /// Forks a session: env, agent, instructions, limits and timeouts are the parent's; the setup script has run on
    /// the files that come along, so it runs again only without them.
    pub async fn fork(
        &mut self,
        permit: &Permit<New<SessionRow>>,
        parent: &Permit<SessionRow>,
        fork: NewFork,
    ) -> Result<SessionRow, Error> {
        let p = parent.row();
        let source = match fork.snapshot {
            Some(snapshot) if snapshot.session == p.id => Source::Snapshot(snapshot),
            Some(snapshot) => {
                return Err(Error::new(
                    Code::InvalidReference,
                    format!("snapshot {} is not one of session {}", snapshot.id, p.name),
                )
                .field("snapshot"));
            }
            None => Source::Session(Box::new(p.clone())),
        };
        let new = NewSession {
            name: fork.name,
            image: p.image.name.clone(),
            runtime: Some(p.runtime.clone()),
            resources: fork.resources.unwrap_or(p.resources),
            agent: p.agent.clone(),
            agents: p.agents.clone(),
            env: p.env.clone(),
            network: match fork.network {
                Some(network) => network,
                None => serde_json::from_value(p.network.clone()).map_err(Error::internal)?,
            },
            instructions: p.instructions.clone(),
            setup: p.setup.clone(),
            allow_root: p.allow_root,
            prompt: fork.prompt,
            idle_timeout_seconds: p.idle_timeout_seconds,
            turn_timeout_seconds: p.turn_timeout_seconds,
            labels: fork.labels.unwrap_or_else(|| p.labels.clone()),
            metadata: fork.metadata.unwrap_or_else(|| p.metadata.clone()),
            from: Some((source, fork.include)),
        };
        self.create(permit, new).await
    }

    /// Admits a session. It is `init` until the reconciler has brought its computer up.
    pub async fn create(
        &mut self,
        _permit: &Permit<New<SessionRow>>,
        new: NewSession,
    ) -> Result<SessionRow, Error> {
        check(&new)?;
        let id = SessionId::new();
        let space = self.0.space()?.id;
        let origin = match &new.from {
            Some((source, include)) => Some((self.origin(source, *include).await?, *include)),
            None => None,
        };
        let (parent, image, setup_done) = match &origin {
            Some((o, include)) => {
                let image = include.files.then(|| o.image.clone());
                (Some(o.parent), image, include.files && o.setup_done)
            }
            None => (None, None, false),
        };
        // Files are where they are: a fork with them runs there too.
        let with_files = origin.as_ref().filter(|(_, include)| include.files);
        let runtime = with_files.map(|(o, _)| o.runtime.clone()).or_else(|| new.runtime.clone());
        let first = origin.as_ref().filter(|(_, i)| i.messages).map_or(0, |(o, _)| o.parent.seq);
        let name = new.name.clone().map_or_else(|| made_up(id), Ok)?;
        let r = new.resources;
        let author = self.0.caller().identity().name.clone();
        let now = self.0.now().to_utc();
        let found = sqlx::query(concat!(
            "with i as (
                select $4::text as name, $5::text as digest, $29::text as runtime where $5::text is not null
                union all
                (select name, digest, runtime from images where $5::text is null and name = $4 and ($29::text is null or runtime = $29)
                 order by created_at desc, id desc limit 1)
             ), s as (
                insert into sessions (id, space_id, name, state, desired, image_name, image_digest, runtime, volume_id,
                    cpu_millis, memory_mib, disk_mib, pids, running_reserved, disk_reserved, agent, env, network,
                    instructions, setup, setup_done, allow_root, idle_timeout_seconds, turn_timeout_seconds,
                    last_used_at, labels, metadata, parent_session, parent_snapshot, parent_seq, last_seq, created_by,
                    created_at, updated_at, agents)
                select $1, $2, $3, 'init', 'running', i.name, i.digest, i.runtime, $6, $7, $8, $9, $10, true, true,
                    $11::text::json, $12::text::json, $13::text::json, $14, $15, $16, $17, $18, $19, $20, $21,
                    $22::text::json, $23, $24, $25, $26, $27, $20, $20, $28::text::json
                from i returning *
             ), l as (
                insert into session_log (session_id, seq, kind, data, created_at)
                select s.id, s.last_seq, 'session.state',
                    json_build_object('state', 'init', 'was', null, 'desired', 'running', 'reason', null), $20 from s
             ) select ",
            session_columns!(),
            " from s"
        ))
        .bind(id.uuid())
        .bind(space.uuid())
        .bind(name.as_str())
        .bind(image.as_ref().map_or(new.image.as_str(), |i| i.name.as_str()))
        .bind(image.as_ref().map(|i| i.digest.as_str()))
        .bind(VolumeId::new().uuid())
        .bind(r.cpu_millis as i32)
        .bind(r.memory_mib as i32)
        .bind(r.disk_mib as i32)
        .bind(r.pids as i32)
        .bind(text(&new.agent)?)
        .bind(text(&new.env.0)?)
        .bind(text(&new.network)?)
        .bind(&new.instructions)
        .bind(&new.setup)
        .bind(setup_done)
        .bind(new.allow_root)
        .bind(new.idle_timeout_seconds as i32)
        .bind(new.turn_timeout_seconds as i32)
        .bind(now)
        .bind(Json(&new.labels))
        .bind(text(&new.metadata)?)
        .bind(parent.map(|p| p.session.uuid()))
        .bind(parent.and_then(|p| p.snapshot).map(SnapshotId::uuid))
        .bind(parent.map(|p| p.seq))
        .bind(first + 1)
        .bind(author)
        .bind(text(&new.agents)?)
        .bind(&runtime)
        .fetch_optional(self.0.tx()?)
        .await
        .or_domain()?;
        let Some(found) = found else { return Err(self.no_image(&new.image, runtime.as_deref()).await) };
        let mut session = row::session(&found).or_domain()?;
        let delta = Delta { sessions: 1, disk_mib: i64::from(r.disk_mib), ..running(r) };
        quota::reserve(self.0.tx()?, space, delta).await?;
        if let Some((o, include)) = &origin
            && include.messages
        {
            self.copy_messages(o.parent, id).await?;
        }
        if let Some(prompt) = &new.prompt {
            let posted = self.post(&session, prompt, None).await?;
            session.last_seq = posted.seq;
        }
        let detail = json!({
            "image": session.image.name, "resources": r, "from": parent.map(|p| p.session), "prompt": new.prompt.is_some(),
            "network": session.network,
        });
        self.note("created", Verb::Create, &session, detail);
        Ok(session)
    }

    /// Makes sure that there is something to fork from; for a session with its files a snapshot is asked for.
    async fn origin(&mut self, source: &Source, include: Include) -> Result<Origin, Error> {
        match source {
            Source::Snapshot(p) => {
                if p.state == SnapshotState::Failed {
                    let why = p.state_reason.as_deref().unwrap_or("it could not be taken");
                    return Err(Error::new(
                        Code::InvalidState,
                        format!("snapshot {} failed and cannot become a session: {why}", p.name),
                    )
                    .field("from.snapshot"));
                }
                let setup_done =
                    sqlx::query_scalar("select setup is null or setup_done from sessions where id = $1")
                        .bind(p.session.uuid())
                        .fetch_optional(self.0.tx()?)
                        .await
                        .or_domain()?;
                Ok(Origin {
                    parent: Parent {
                        session: p.session,
                        snapshot: include.files.then_some(p.id),
                        seq: p.seq,
                    },
                    image: p.image.clone(),
                    runtime: p.runtime.clone(),
                    setup_done: setup_done.unwrap_or(true),
                })
            }
            Source::Session(p) => {
                let p = self.lock(p.id).await?;
                if p.deleted_at.is_some() {
                    return Err(Error::not_found("session", &p.name).field("from.session"));
                }
                if include.files && p.state == wharf_domain::session::State::Error && !p.volume_made {
                    return Err(refused(&p, "a fork", "it has no files; restore it first"));
                }
                let snapshot = if include.files { Some(self.snapshot_for_fork(&p).await?) } else { None };
                Ok(Origin {
                    parent: Parent { session: p.id, snapshot, seq: p.last_seq },
                    image: p.image.clone(),
                    runtime: p.runtime.clone(),
                    setup_done: p.setup.is_none() || p.setup_done,
                })
            }
        }
    }

    async fn snapshot_for_fork(&mut self, p: &SessionRow) -> Result<SnapshotId, Error> {
        let id = SnapshotId::new();
        sqlx::query(
            "insert into snapshots (id, space_id, session_id, volume_id, for_fork, name, state, image_name, image_digest,
                disk_mib, message_seq, created_at, updated_at, runtime)
             values ($1, $2, $3, $4, true, null, 'pending', $5, $6, $7, $8, $9, $9, $10)",
        )
        .bind(id.uuid())
        .bind(p.space.uuid())
        .bind(p.id.uuid())
        .bind(p.volume.uuid())
        .bind(p.image.name.as_str())
        .bind(&p.image.digest)
        .bind(p.resources.disk_mib as i32)
        .bind(p.last_seq)
        .bind(self.0.now().to_utc())
        .bind(&p.runtime)
        .execute(self.0.tx()?)
        .await
        .or_domain()?;
        self.0.wake(wharf_ports::Topic::Session(p.id));
        Ok(id)
    }

    /// Messages of turns that had ended by then, under the numbers they had.
    async fn copy_messages(&mut self, parent: Parent, child: SessionId) -> Result<(), Error> {
        sqlx::query(
            "with t as materialized (
                select t.*, gen_random_uuid() as new_id from turns t
                where t.session_id = $1 and t.seq <= $2 and t.state not in ('queued', 'running')
                  and not exists (select from session_log l
                    where l.session_id = $1 and l.seq > $2 and l.turn_id = t.id)
             ), turned as (
                insert into turns (id, session_id, seq, state, reason, detail, agent, exit_code, is_error, usage,
                    created_at, started_at, deadline_at, ended_at)
                select new_id, $3, seq, state, reason, detail, agent, exit_code, is_error, usage, created_at,
                    started_at, deadline_at, ended_at from t
             ), said as (
                insert into messages (session_id, seq, role, agent, content, turn_id, author, created_at)
                select $3, m.seq, m.role, m.agent, m.content, t.new_id, m.author, m.created_at
                from messages m join t on t.id = m.turn_id where m.session_id = $1 and m.seq <= $2
                returning seq, role, turn_id, created_at
             )
             insert into session_log (session_id, seq, kind, turn_id, data, created_at)
             select $3, seq, 'message.created', turn_id, json_build_object('role', role), created_at from said",
        )
        .bind(parent.session.uuid())
        .bind(parent.seq)
        .bind(child.uuid())
        .execute(self.0.tx()?)
        .await
        .or_domain()?;
        Ok(())
    }

    async fn no_image(&mut self, asked: &Name, runtime: Option<&str>) -> Error {
        let known = sqlx::query_as::<_, (String, String)>(
            "select distinct name, runtime from images order by name, runtime limit 100",
        )
        .fetch_all(match self.0.tx() {
            Ok(tx) => tx,
            Err(e) => return e,
        })
        .await
        .or_domain();
        match known {
            Err(e) => e,
            Ok(known) => Error::new(Code::InvalidReference, absent(asked, runtime, &known)).field("image"),
        }
    }
}

/// Why there is no such image, and which there are.
fn absent(asked: &Name, runtime: Option<&str>, known: &[(String, String)]) -> String {
    let here: Vec<&str> =
        known.iter().filter(|(_, r)| runtime.is_none_or(|w| w == r)).map(|(name, _)| name.as_str()).collect();
    let elsewhere = known.iter().find(|(name, _)| name == asked.as_str()).map(|(_, r)| r);
    match (elsewhere, runtime) {
        (Some(elsewhere), Some(runtime)) => format!(
            "there is no image {asked} in the runtime {runtime}, where the settings have it run; {elsewhere} has one: \
             build or import it anew with `wharf image`, or name {elsewhere} for it in the setting `runtimes`"
        ),
        _ if here.is_empty() => {
            format!("there is no image {asked}; none is there yet: build or import one with `wharf image`")
        }
        _ => format!("there is no image {asked}; known images: {}", here.join(", ")),
    }
}

struct Origin {
    parent: Parent,
    image: ImageRef,
    runtime: String,
    setup_done: bool,
}

/// What a session that runs adds to the space's use.
pub(super) fn running(r: Resources) -> Delta {
    Delta {
        running_sessions: 1,
        cpu_millis: i64::from(r.cpu_millis),
        memory_mib: i64::from(r.memory_mib),
        ..Delta::default()
    }
}

/// JSON as text: what users write may hold U+0000, which `jsonb` and text refuse and `json` keeps escaped.
pub(super) fn text<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(Error::internal)
}

fn made_up(id: SessionId) -> Result<Name, Error> {
    // The last twelve digits are random.
    format!("s-{}", &id.uuid().simple().to_string()[20..]).parse()
}

fn check(new: &NewSession) -> Result<(), Error> {
    new.resources.validate()?;
    new.network.check()?;
    let env: usize = new.env.0.iter().map(|(k, v)| k.len() + v.len()).sum();
    if env > limits::ENV_BYTES {
        let detail = format!("env takes {env} bytes; the limit ENV_BYTES is {}", limits::ENV_BYTES);
        return Err(Error::new(Code::InvalidField, detail).field("env"));
    }
    for (k, v) in &new.env.0 {
        if k.is_empty() || k.contains(['=', '\0']) || v.contains('\0') {
            let detail = "names of env are not empty and without '='; nothing in env holds U+0000";
            return Err(Error::new(Code::InvalidField, detail).field("env"));
        }
    }
    check_text("instructions", new.instructions.as_deref())?;
    check_text("setup", new.setup.as_deref())?;
    check_metadata(&new.metadata)
}

pub(super) fn check_metadata(metadata: &Map<String, Value>) -> Result<(), Error> {
    let size = text(metadata)?.len();
    if size > limits::TEXT_BYTES {
        let detail = format!("metadata takes {size} bytes; the limit TEXT_BYTES is {}", limits::TEXT_BYTES);
        return Err(Error::new(Code::InvalidField, detail).field("metadata"));
    }
    Ok(())
}

pub(super) fn check_text(field: &str, value: Option<&str>) -> Result<(), Error> {
    let Some(value) = value else { return Ok(()) };
    let detail = if value.len() > limits::TEXT_BYTES {
        format!("{field} takes {} bytes; the limit TEXT_BYTES is {}", value.len(), limits::TEXT_BYTES)
    } else if value.contains('\0') {
        format!("{field} holds U+0000, which no program could be given")
    } else {
        return Ok(());
    };
    Err(Error::new(Code::InvalidField, detail).field(field))
}
