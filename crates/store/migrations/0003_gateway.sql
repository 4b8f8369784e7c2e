-- The gateway: connections of a space, the authority its sessions trust, and the log of what left.

create index sessions_jail_idx on sessions (jail_id) where jail_id is not null;

create table connections (
    id               uuid primary key,
    space_id         uuid not null constraint connections_space references spaces on delete cascade,
    name             text not null,
    labels           jsonb not null default '{}',
    -- Pattern of hosts; methods and path prefix where it is narrowed to some.
    host             text not null,
    methods          text[] not null default '{}',
    path_prefix      text,
    -- How the credential is put in: `header`, `query` or `basic`, the name of the header, parameter or user, and what
    -- stands before the value in a header.
    kind             text not null constraint connections_kind check (kind in ('header', 'query', 'basic')),
    target           text not null,
    prefix           text not null default '',
    secret_id        uuid not null constraint connections_secret references secrets on delete restrict,
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    constraint connections_name unique (space_id, name)
);
create index connections_secret_idx on connections (secret_id);

-- The certificate authority of a space: sessions trust it, and only the gateway holds its key.
create table space_authorities (
    space_id    uuid primary key constraint space_authorities_space references spaces on delete cascade,
    certificate text not null,
    key_id      text not null,
    wrapped     bytea not null,
    payload     bytea not null,
    created_at  timestamptz not null
);

-- One row for each tunnel or request that came to the gateway, written when it ends.
create table egress_log (
    id             uuid primary key,
    space_id       uuid not null,
    session_id     uuid not null,
    turn_id        uuid,
    kind           text not null constraint egress_log_kind check (kind in ('tunnel', 'request', 'model')),
    host           text not null,
    port           integer not null,
    method         text,
    status         integer,
    decision       text not null constraint egress_log_decision check (decision in ('allowed', 'denied', 'failed')),
    reason         text,
    connection     text,
    bytes_sent     bigint not null,
    bytes_received bigint not null,
    started_at     timestamptz not null,
    duration_ms    bigint not null
);
create index egress_log_session_idx on egress_log (session_id, id);
create index egress_log_age_idx on egress_log (started_at);

-- Bytes that left and came, added up by session and day (UTC).
create table egress_usage (
    space_id       uuid not null constraint egress_usage_space references spaces on delete cascade,
    session_id     uuid not null,
    day            date not null,
    requests       bigint not null default 0,
    bytes_sent     bigint not null default 0,
    bytes_received bigint not null default 0,
    constraint egress_usage_key primary key (space_id, day, session_id)
);
