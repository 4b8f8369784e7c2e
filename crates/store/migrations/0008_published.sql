-- Published copies: files of a session as they were, which outlive it. Their bytes are blobs, by content.

create table published (
    id               uuid primary key,
    space_id         uuid not null constraint published_space references spaces on delete restrict,
    -- May be gone.
    session_id       uuid not null,
    session_name     text not null,
    name             text not null,
    visibility       text not null constraint published_visibility check (visibility in ('link', 'public')),
    -- Names the copy in addresses; random, so that none is guessed.
    slug             text not null constraint published_slug unique,
    -- What links are checked with, and, sealed, what they are signed with. A new pair ends all links there are.
    link_public      bytea not null,
    key_id           text not null,
    wrapped          bytea not null,
    payload          bytea not null,
    paths            json not null,
    files            integer not null,
    bytes            bigint not null,
    left_out         integer not null,
    -- What it holds of the space's disk quota.
    disk_mib         bigint not null,
    labels           jsonb not null default '{}',
    expires_at       timestamptz,
    resource_version bigint not null default 1,
    created_by       text,
    created_at       timestamptz not null,
    constraint published_name unique (space_id, name)
);
create index published_space_idx on published (space_id, id);
create index published_session_idx on published (session_id);
create index published_expires_idx on published (expires_at) where expires_at is not null;

create table published_files (
    published_id uuid not null constraint published_files_copy references published on delete cascade,
    path         text not null,
    blob_id      uuid not null constraint published_files_blob references blobs on delete restrict,
    bytes        bigint not null,
    -- SHA-256 of the content, in hexadecimal.
    digest       text not null,
    constraint published_files_key primary key (published_id, path)
);
create index published_files_blob_idx on published_files (blob_id);

-- Whoever sweeps blobs passes over those that a copy holds.
create function published_keeps() returns trigger language plpgsql as $$
begin
    if exists (select from published_files where blob_id = old.id) then
        return null;
    end if;
    return old;
end $$;
create trigger blobs_published before delete on blobs for each row execute function published_keeps();

-- Deletes copies: what they hold of the quota is free again, and the space hears of it.
create function published_delete(the_ids uuid[], the_time timestamptz) returns bigint language plpgsql as $$
declare
    the_copy record;
    gone bigint := 0;
begin
    for the_copy in
        delete from published where id = any(the_ids)
        returning id, space_id, session_id, name, disk_mib, resource_version
    loop
        gone := gone + 1;
        update space_usage set disk_mib = disk_mib - the_copy.disk_mib where space_id = the_copy.space_id;
        insert into events (space_id, kind, resource, resource_id, name, resource_version, data, created_at)
        values (the_copy.space_id, 'deleted', 'published', the_copy.id, the_copy.name, the_copy.resource_version,
            jsonb_build_object('session', the_copy.session_id), the_time);
    end loop;
    return gone;
end $$;
