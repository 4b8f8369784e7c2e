-- Which runtime has a snapshot: its session's row may be gone before it.
alter table snapshots add column runtime text not null default 'native';
alter table snapshots alter column runtime drop default;
