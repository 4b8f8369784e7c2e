-- Principals, rights, tokens, spaces, secrets, events, idempotency, audit.
--
-- Two database roles: the owner runs this file; `wharf_app` is what every process works as. It may not change or
-- delete what was written to the audit tables.

do $$
begin
    if not exists (select from pg_roles where rolname = 'wharf_app') then
        create role wharf_app nologin;
    end if;
exception when duplicate_object or unique_violation then
    null; -- another installation in the same cluster was faster
end $$;

do $$
begin
    if current_user <> 'wharf_app' then
        execute format('grant wharf_app to %I', current_user);
    end if;
end $$;

grant usage on schema public to wharf_app;
alter default privileges in schema public grant select, insert, update, delete on tables to wharf_app;
alter default privileges in schema public grant usage, select on sequences to wharf_app;

create table principals (
    id                  uuid primary key,
    kind                text not null constraint principals_kind check (kind in ('user', 'service-account')),
    name                text not null,
    display_name        text not null default '',
    labels              jsonb not null default '{}',
    disabled            boolean not null default false,
    password_hash       text,
    password_changed_at timestamptz,
    resource_version    bigint not null default 1,
    created_at          timestamptz not null,
    updated_at          timestamptz not null,
    constraint principals_name unique (kind, name)
);

create table spaces (
    id               uuid primary key,
    name             text not null constraint spaces_name unique,
    labels           jsonb not null default '{}',
    quotas           jsonb not null default '{}',
    defaults         jsonb not null default '{}',
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null
);

-- What is reserved of a space's quotas. The row is locked by the transaction that admits.
create table space_usage (
    space_id         uuid primary key constraint space_usage_space references spaces on delete cascade,
    sessions         bigint not null default 0 constraint space_usage_sessions check (sessions >= 0),
    running_sessions bigint not null default 0 constraint space_usage_running check (running_sessions >= 0),
    cpu_millis       bigint not null default 0 constraint space_usage_cpu check (cpu_millis >= 0),
    memory_mib       bigint not null default 0 constraint space_usage_memory check (memory_mib >= 0),
    disk_mib         bigint not null default 0 constraint space_usage_disk check (disk_mib >= 0)
);

create table roles (
    id               uuid primary key,
    name             text not null constraint roles_name unique,
    built_in         boolean not null default false,
    rules            jsonb not null,
    labels           jsonb not null default '{}',
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null
);

create table role_bindings (
    id               uuid primary key,
    name             text not null constraint role_bindings_name unique,
    role_id          uuid not null constraint role_bindings_role references roles on delete restrict,
    principal_id     uuid not null constraint role_bindings_principal references principals on delete cascade,
    space_id         uuid constraint role_bindings_space references spaces on delete cascade,
    labels           jsonb not null default '{}',
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    constraint role_bindings_grant unique nulls not distinct (principal_id, role_id, space_id)
);

-- One login and the refresh tokens that followed from it. A used token coming back revokes all of them.
create table login_families (
    id             uuid primary key,
    principal_id   uuid not null constraint login_families_principal references principals on delete cascade,
    address        text,
    created_at     timestamptz not null,
    revoked_at     timestamptz,
    revoked_reason text
);
create index login_families_principal_idx on login_families (principal_id) where revoked_at is null;

create table refresh_tokens (
    hash       bytea primary key,
    family_id  uuid not null constraint refresh_tokens_family references login_families on delete cascade,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at    timestamptz
);
create index refresh_tokens_family_idx on refresh_tokens (family_id);
create index refresh_tokens_expires_idx on refresh_tokens (expires_at);

create table api_tokens (
    id           uuid primary key,
    principal_id uuid not null constraint api_tokens_principal references principals on delete cascade,
    name         text not null,
    prefix       text not null,
    hash         bytea not null constraint api_tokens_hash unique,
    rules        jsonb,
    created_at   timestamptz not null,
    expires_at   timestamptz not null,
    last_used_at timestamptz,
    constraint api_tokens_name unique (principal_id, name)
);

-- Failed logins per account and per address; `key` is 'account/<name>' or 'address/<address>'.
create table login_attempts (
    key          text primary key,
    failures     integer not null,
    window_until timestamptz not null,
    locked_until timestamptz
);

create table signing_keys (
    kid        text primary key,
    public     bytea not null,
    key_id     text not null,
    wrapped    bytea not null,
    payload    bytea not null,
    created_at timestamptz not null,
    -- Set by rotation: no token is signed with it afterwards, and after `expires_at` none is valid.
    retired_at timestamptz,
    expires_at timestamptz
);
create unique index signing_keys_active on signing_keys ((true)) where retired_at is null;

create table secrets (
    id               uuid primary key,
    space_id         uuid not null constraint secrets_space references spaces on delete restrict,
    name             text not null,
    labels           jsonb not null default '{}',
    version          integer not null default 1,
    key_id           text not null,
    wrapped          bytea not null,
    payload          bytea not null,
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    constraint secrets_name unique (space_id, name)
);
create index secrets_key_idx on secrets (key_id);

-- The outbox. Readers see only rows of transactions older than every running one, in (txid, seq) order, so a
-- later commit never appears behind a cursor.
create table events (
    seq              bigint generated always as identity primary key,
    txid             xid8 not null default pg_current_xact_id(),
    space_id         uuid,
    kind             text not null,
    resource         text not null,
    resource_id      uuid not null,
    name             text,
    resource_version bigint not null,
    data             jsonb not null,
    created_at       timestamptz not null
);
create index events_space_idx on events (space_id, txid, seq);
create index events_order_idx on events (txid, seq);
create index events_created_idx on events (created_at);

-- Up to where retention has removed events: a reader that stands before it has missed some and must list again.
create table events_floor (
    one  boolean primary key default true constraint events_floor_one check (one),
    txid xid8 not null default '0',
    seq  bigint not null default 0
);
insert into events_floor default values;

create table idempotency (
    principal_id uuid not null,
    route        text not null,
    key          text not null,
    body_hash    bytea not null,
    state        text not null constraint idempotency_state check (state in ('running', 'done')),
    owner        uuid not null,
    lease_until  timestamptz not null,
    status       integer,
    -- Not jsonb: a reply may quote U+0000 (the output of a command), and is to come back byte for byte.
    reply        json,
    created_at   timestamptz not null,
    constraint idempotency_key primary key (principal_id, route, key)
);
create index idempotency_created_idx on idempotency (created_at);

create table audit_entries (
    id                uuid not null,
    at                timestamptz not null,
    seq               bigint generated always as identity,
    txid              xid8 not null default pg_current_xact_id(),
    principal_kind    text not null,
    principal_id      uuid,
    principal_name    text not null,
    impersonator_id   uuid,
    impersonator_name text,
    verb              text not null,
    resource          text not null,
    resource_id       uuid,
    resource_name     text,
    space_id          uuid,
    space_name        text,
    outcome           text not null constraint audit_outcome check (outcome in ('allowed', 'denied', 'failed')),
    address           text,
    request_id        uuid,
    detail            jsonb not null,
    primary key (at, id)
) partition by range (at);
create table audit_entries_rest partition of audit_entries default;
create index audit_entries_order_idx on audit_entries (txid, seq);
create index audit_entries_principal_idx on audit_entries (principal_name, at);
create index audit_entries_resource_idx on audit_entries (resource, resource_name, at);

create table audit_chain (
    n         bigint primary key,
    entry_id  uuid not null,
    entry_at  timestamptz not null,
    entry_seq bigint not null,
    txid      xid8 not null,
    hash      bytea not null
);

revoke update, delete, truncate on audit_entries, audit_entries_rest, audit_chain from wharf_app;
grant select, insert on audit_entries, audit_chain to wharf_app;

-- Makes the partitions of a month; called ahead of time by the application role, which owns nothing.
create function audit_partition(month date) returns void
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    first date := date_trunc('month', month)::date;
    name  text := 'audit_entries_' || to_char(first, 'YYYYMM');
begin
    if to_regclass('public.' || name) is not null then
        return;
    end if;
    execute format('create table public.%I partition of public.audit_entries for values from (%L) to (%L)',
        name, first::timestamptz, (first + interval '1 month')::timestamptz);
    execute format('revoke all on public.%I from wharf_app', name);
    execute format('grant select, insert on public.%I to wharf_app', name);
exception
    when duplicate_table then null;  -- another process made it
    when check_violation then null;  -- the month already has rows in the rest partition; they stay there
end $$;
revoke all on function audit_partition(date) from public;
grant execute on function audit_partition(date) to wharf_app;

-- What a principal may do, as authentication reads it with every request.
create function principal_grants(principal uuid) returns jsonb
language sql stable as $$
    select coalesce(jsonb_agg(jsonb_build_object('binding', b.name, 'role', r.name, 'space', b.space_id, 'rules', r.rules)
                              order by b.id), '[]')
    from role_bindings b join roles r on r.id = b.role_id where b.principal_id = principal
$$;
