-- What was asked for with a build, so that a push builds where the build before it did; and builds that somebody cancelled.

-- The image and the limits that were named with it; where none were, the package and the space say.
alter table builds add column image text;
alter table builds add column resources json not null default '{}';

alter table builds drop constraint builds_state;
alter table builds add constraint builds_state check (state in ('queued', 'running', 'succeeded', 'failed', 'cancelled'));

create index builds_space_open_idx on builds (space_id) where state in ('queued', 'running');
