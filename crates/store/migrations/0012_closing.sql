-- Between a close and its end; and the builds that pushes owe.

-- A close that was asked for is carried through, also when the session is wanted again before its end: who waits for it
-- then waits for the computer that comes after, and nobody is sent to the one that is about to end. Set with the wish, cleared
-- with the state it leads to.
alter table sessions add column closing boolean not null default false;
update sessions set closing = true where desired = 'closed' and state in ('init', 'idle', 'busy') and gone_at is null;

create or replace function session_move(
    the_session uuid, the_token bigint, the_state text, the_reason text, the_time timestamptz, soft boolean,
    out outcome text, out was text
) language plpgsql as $$
declare
    s sessions;
    down boolean := the_state in ('closed', 'error');
    freed boolean;
begin
    select * into s from sessions where id = the_session for update;
    -- One that is wanted again before its close was done keeps what it reserved.
    freed := down and (the_state = 'error' or s.desired <> 'running');
    was := s.state;
    if not found or s.gone_at is not null then
        outcome := 'missing';
        return;
    elsif the_token is not null and s.lease_token <> the_token then
        outcome := 'lease_lost';
        return;
    elsif s.state = the_state then
        outcome := 'same';
        return;
    elsif not session_may_become(s.state, the_state) then
        outcome := 'illegal';
        return;
    elsif s.state = 'busy' and exists (select from turns where session_id = the_session and state = 'running') then
        outcome := 'turn_runs';
        return;
    elsif the_state = 'closed' and s.desired <> 'closed' and not s.closing then
        outcome := 'unwanted';
        return;
    end if;
    -- What was left unsaid comes first.
    perform session_announce(the_session, the_time);
    if freed and s.running_reserved then
        update space_usage
        set running_sessions = running_sessions - 1, cpu_millis = cpu_millis - s.cpu_millis,
            memory_mib = memory_mib - s.memory_mib
        where space_id = s.space_id;
    end if;
    update sessions
    set state = the_state,
        state_reason = the_reason,
        running_reserved = running_reserved and not freed,
        closing = closing and the_state not in ('closed', 'error', 'init'),
        failures = case when the_state in ('closed', 'init') then 0 else failures end,
        retry_at = null,
        last_used_at = case when the_state = 'idle' then the_time else last_used_at end,
        hold_until = case when the_state = 'idle' then null else hold_until end,
        closed_at = case when the_state = 'closed' then the_time when the_state = 'idle' then null else closed_at end,
        owed = s.state,
        resource_version = resource_version + 1,
        updated_at = the_time
    where id = the_session;
    if not soft then
        perform session_announce(the_session, the_time);
    end if;
    outcome := 'moved';
end $$;

create or replace function turn_claim(
    the_session uuid, the_token bigint, the_time timestamptz,
    out outcome text, out turn_id uuid, out message_seq bigint, out deadline timestamptz, out content json,
    out incarnation bigint
) language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    s sessions;
    moved record;
begin
    select * into s from sessions where id = the_session for update;
    if not found then
        outcome := 'missing';
        return;
    elsif s.lease_token <> the_token then
        outcome := 'lease_lost';
        return;
    elsif s.state <> 'idle' or s.desired <> 'running' or s.closing or s.host_socket is null then
        outcome := 'not_ready';
        return;
    end if;
    select t.id, t.seq into turn_id, message_seq from turns t
    where t.session_id = the_session and t.state = 'queued' order by t.seq limit 1;
    if not found then
        outcome := 'empty';
        return;
    end if;
    deadline := the_time + make_interval(secs => s.turn_timeout_seconds);
    select * into moved from session_move(the_session, the_token, 'busy', null, the_time, false);
    update turns t set state = 'running', started_at = the_time, deadline_at = deadline where t.id = turn_id;
    perform session_say(the_session, 'turn.started', turn_id, json_build_object('message', message_seq), the_time);
    select m.content into content from messages m where m.session_id = the_session and m.seq = message_seq;
    incarnation := s.incarnation;
    outcome := 'claimed';
end $$;

create or replace function session_post(
    the_session uuid, the_turn uuid, the_content json, the_agent text, the_author text, the_limit bigint,
    the_time timestamptz,
    out outcome text, out seq bigint, out reserve boolean, out was_state text, out started boolean
) language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    s sessions;
    waiting bigint;
begin
    started := false;
    select * into s from sessions where id = the_session for update;
    was_state := s.state;
    if not found or s.deleted_at is not null then
        outcome := 'missing';
        return;
    elsif s.state = 'error' then
        outcome := 'error';
        return;
    end if;
    select count(*) into waiting from (
        select from turns t where t.session_id = the_session and t.state = 'queued' limit the_limit) q;
    if waiting >= the_limit then
        outcome := 'full';
        return;
    end if;
    seq := s.last_seq + 1;
    reserve := not s.running_reserved;
    update sessions
    set last_seq = seq,
        desired = 'running',
        running_reserved = true,
        last_used_at = the_time,
        resource_version = resource_version + case when s.desired = 'running' then 0 else 1 end,
        updated_at = case when s.desired = 'running' then updated_at else the_time end
    where id = the_session;
    insert into turns (id, session_id, seq, state, agent, created_at)
    values (the_turn, the_session, seq, 'queued', the_agent, the_time);
    insert into messages (session_id, seq, role, agent, content, turn_id, author, created_at)
    values (the_session, seq, 'user', the_agent, the_content, the_turn, the_author, the_time);
    insert into session_log (session_id, seq, kind, turn_id, data, bytes, created_at)
    values (the_session, seq, 'message.created', the_turn, json_build_object('role', 'user'),
        octet_length(the_content::text), the_time);
    -- Only under the lease of an operator that has it up: it is woken by this commit and drives the turn. A snapshot that
    -- was asked for before the message is taken before it.
    if waiting = 0 and s.state = 'idle' and s.desired = 'running' and not s.closing and s.host_socket is not null
        and not s.suspect
        and s.lease_until > the_time
        and not exists (select from snapshots p
            where p.session_id = the_session and p.state = 'pending' and p.deleted_at is null)
    then
        started := (select c.outcome = 'claimed' from turn_claim(the_session, s.lease_token, the_time) c);
    end if;
    outcome := 'posted';
end $$;

-- Whose push it is, for what is done in their name when the server that took it is gone.
alter table repo_pushes add column principal uuid, add column token uuid, add column impersonator uuid;

-- Builds that pushes owe to agents that follow their branches. Written in the commit that settles a push, deleted in the
-- one that begins the build, so that no death in between leaves a push that nobody builds.
create table push_builds (
    agent_id     uuid primary key constraint push_builds_agent references agents on delete cascade,
    repo_id      uuid not null constraint push_builds_repo references repos on delete cascade,
    branch       text not null,
    push_id      uuid not null,
    principal    uuid not null,
    token        uuid,
    impersonator uuid,
    attempts     integer not null default 0,
    created_at   timestamptz not null
);
create index push_builds_repo_idx on push_builds (repo_id);
create index push_builds_push_idx on push_builds (push_id);
