-- Several agents in a session.

-- All agents of a session that has several, the default one first; `agent` is the default one.
alter table sessions add column agents json not null default '[]';
-- Agents: packages with versions; builds that make them; and what builds take in and bring forth.

-- Bytes by content. In chunks, so that nobody holds one whole; kept here because this is the one place that every role
-- of every machine reaches.
create table blobs (
    id         uuid primary key,
    -- Of the bytes before compression; null while they are still coming.
    digest     text,
    bytes      bigint not null default 0,
    created_at timestamptz not null
);
create unique index blobs_digest on blobs (digest) where digest is not null;

create table blob_chunks (
    blob_id uuid not null constraint blob_chunks_blob references blobs on delete cascade,
    n       integer not null,
    data    bytea not null,
    constraint blob_chunks_key primary key (blob_id, n)
);

create table agents (
    id               uuid primary key,
    space_id         uuid not null constraint agents_space references spaces on delete cascade,
    name             text not null,
    description      text,
    labels           jsonb not null default '{}',
    -- The version sessions get that name none.
    active           integer,
    last_version     integer not null default 0,
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    constraint agents_name unique (space_id, name)
);

create table agent_versions (
    agent_id   uuid not null constraint agent_versions_agent references agents on delete cascade,
    version    integer not null,
    build_id   uuid not null,
    blob_id    uuid not null constraint agent_versions_blob references blobs on delete restrict,
    digest     text not null,
    bytes      bigint not null,
    -- What `wharf.toml` says, or what was recognised.
    manifest   json not null,
    created_by text,
    created_at timestamptz not null,
    constraint agent_versions_key primary key (agent_id, version)
);
create index agent_versions_blob_idx on agent_versions (blob_id);

create table builds (
    id          uuid primary key,
    space_id    uuid not null constraint builds_space references spaces on delete cascade,
    agent_id    uuid not null constraint builds_agent references agents on delete cascade,
    state       text not null constraint builds_state check (state in ('queued', 'running', 'succeeded', 'failed')),
    reason      text,
    -- `{git: {url, ref}}` or `{upload: digest}`.
    source      json not null,
    blob_id     uuid constraint builds_blob references blobs on delete set null,
    -- The computer it is built in.
    session_id  uuid not null,
    version     integer,
    attempts    integer not null default 0,
    -- Who works on it; as with sessions.
    lease_owner uuid,
    lease_token bigint not null default 0,
    lease_until timestamptz,
    created_by  text,
    created_at  timestamptz not null,
    started_at  timestamptz,
    ended_at    timestamptz,
    constraint builds_ended check ((ended_at is null) = (state in ('queued', 'running')))
);
create index builds_open_idx on builds (id) where state in ('queued', 'running');
create index builds_agent_idx on builds (agent_id, id);
create index builds_space_idx on builds (space_id, id);
create index builds_blob_idx on builds (blob_id) where blob_id is not null;

create table build_log (
    build_id uuid not null constraint build_log_build references builds on delete cascade,
    n        bigint not null,
    stream   text not null,
    text     text not null,
    at       timestamptz not null,
    constraint build_log_key primary key (build_id, n)
);

-- What package managers fetched for an agent's builds, by image and lockfiles. Nothing is lost with one but time.
create table build_caches (
    agent_id uuid not null constraint build_caches_agent references agents on delete cascade,
    key      text not null,
    blob_id  uuid not null constraint build_caches_blob references blobs on delete cascade,
    used_at  timestamptz not null,
    constraint build_caches_key primary key (agent_id, key)
);
create index build_caches_blob_idx on build_caches (blob_id);

-- Removes bytes that nothing needs any more: no version, no cache, no open build, no session that may still have to unpack them.
create function blobs_sweep(the_time timestamptz) returns bigint language sql as $$
    with used as (
        select digest from agent_versions
        union
        select p.value ->> 'digest' from sessions s
            cross join lateral json_array_elements(json_build_array(s.agent -> 'built')) p
            where s.deleted_at is null and json_typeof(s.agent -> 'built') = 'object'
        union
        select a.value -> 'built' ->> 'digest' from sessions s cross join lateral json_array_elements(s.agents) a
            where s.deleted_at is null
    ), stale as (
        delete from build_caches where used_at < the_time - interval '30 days'
    ), gone as (
        delete from blobs b
        where not exists (select from builds w where w.blob_id = b.id and w.state in ('queued', 'running'))
          and not exists (select from agent_versions v where v.blob_id = b.id)
          and not exists (select from build_caches c where c.blob_id = b.id)
          and (b.digest is null or not exists (select from used u where u.digest = b.digest))
          and b.created_at < the_time - interval '1 hour'
        returning 1
    ) select count(*) from gone
$$;
