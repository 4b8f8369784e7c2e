-- Connections that are a key of an ssh server: `target` is who logs in (empty: whom the address names), `host_keys` what the server is
-- known by, `push` whether pushes are let out too.

alter table connections drop constraint connections_kind;
alter table connections add constraint connections_kind check (kind in ('header', 'query', 'basic', 'ssh'));
alter table connections add column host_keys text[] not null default '{}';
alter table connections add column push boolean not null default false;
alter table connections add constraint connections_ssh check (kind = 'ssh' or (host_keys = '{}' and not push));
