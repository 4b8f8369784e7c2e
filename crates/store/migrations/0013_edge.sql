-- What a build was granted to reach when it was begun: patterns of hosts, or null for whatever its manifest names.
alter table builds add column egress jsonb;
