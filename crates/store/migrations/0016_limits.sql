-- What builds keep counts against a quota of their space: packages, caches, and sources while their builds are open.

alter table space_usage add column package_bytes bigint not null default 0
    constraint space_usage_packages check (package_bytes >= 0);

alter table agent_versions add column space_id uuid;
update agent_versions v set space_id = a.space_id from agents a where a.id = v.agent_id;
alter table agent_versions alter column space_id set not null;

alter table build_caches add column space_id uuid, add column bytes bigint;
update build_caches c set space_id = a.space_id, bytes = b.bytes from agents a, blobs b
    where a.id = c.agent_id and b.id = c.blob_id;
alter table build_caches alter column space_id set not null, alter column bytes set not null;

-- Of the source, while the build is open.
alter table builds add column bytes bigint not null default 0;
update builds w set bytes = b.bytes from blobs b where b.id = w.blob_id and w.state in ('queued', 'running');
-- For retention.
create index builds_ended_idx on builds (ended_at) where ended_at is not null;
create index build_log_at_idx on build_log (at);

update space_usage u set package_bytes =
      (select coalesce(sum(bytes), 0) from agent_versions where space_id = u.space_id)
    + (select coalesce(sum(bytes), 0) from build_caches where space_id = u.space_id)
    + (select coalesce(sum(bytes), 0) from builds where space_id = u.space_id);

-- Here and not in the statements: rows go by cascades and sweeps too, and the sum must be right after each of them.
create function package_bytes_count() returns trigger language plpgsql as $$
declare
    change bigint := 0;
    the_space uuid;
begin
    if tg_op <> 'INSERT' then
        change := change - old.bytes;
        the_space := old.space_id;
    end if;
    if tg_op <> 'DELETE' then
        change := change + new.bytes;
        the_space := new.space_id;
    end if;
    if change <> 0 then
        update space_usage set package_bytes = package_bytes + change where space_id = the_space;
    end if;
    return null;
end $$;
create trigger agent_versions_count after insert or delete on agent_versions
    for each row execute function package_bytes_count();
create trigger build_caches_count after insert or update of bytes or delete on build_caches
    for each row execute function package_bytes_count();
create trigger builds_count after insert or update of bytes or delete on builds
    for each row execute function package_bytes_count();

-- Who names a blob does so within the hour after it was written, found again, or last written to (`created_at` moves then).
