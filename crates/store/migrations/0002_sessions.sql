-- Sessions: what is wanted and what was seen of an agent's computer, its messages, turns, log, snapshots, and the
-- images they start from.
--
-- `json`, not `jsonb`, where users, agents and programs put what they like: it keeps U+0000, which `jsonb` refuses.

create table images (
    id         uuid primary key,
    name       text not null,
    digest     text not null,
    runtime    text not null,
    size_bytes bigint not null,
    created_at timestamptz not null,
    seen_at    timestamptz not null,
    constraint images_version unique (runtime, name, digest)
);
create index images_name_idx on images (name, created_at desc);

create table sessions (
    id                   uuid primary key,
    space_id             uuid not null constraint sessions_space references spaces on delete restrict,
    name                 text not null,
    state                text not null constraint sessions_state
                         check (state in ('init', 'idle', 'busy', 'closed', 'error')),
    state_reason         text,
    desired              text not null constraint sessions_desired check (desired in ('running', 'closed', 'deleted')),
    resource_version     bigint not null default 1,
    -- Set while the last change of state is not yet in log and outbox: the state before it (see `session_announce`).
    owed                 text,
    image_name           text not null,
    image_digest         text not null,
    runtime              text not null,
    volume_id            uuid not null,
    -- The runtime said that it is there; until then the origin is needed.
    volume_made          boolean not null default false,
    -- The computer that is up, as the server may use it. Written with every start and every stop.
    jail_id              uuid,
    host_socket          text,
    warm                 boolean not null default false,
    -- Grows with every start; the runtime refuses an older one.
    incarnation          bigint not null default 0,
    started_at           timestamptz,
    -- What a server that could not reach the host left behind: look before you believe the record.
    suspect              boolean not null default false,
    cpu_millis           integer not null,
    memory_mib           integer not null,
    disk_mib             integer not null,
    pids                 integer not null,
    -- CPU and memory are counted in the space's usage; the same for the disk.
    running_reserved     boolean not null default false,
    disk_reserved        boolean not null default false,
    agent                json not null,
    env                  json not null default '{}',
    secrets              text[] not null default '{}',
    network              json not null default '{}',
    instructions         text,
    setup                text,
    setup_done           boolean not null default false,
    allow_root           boolean not null default true,
    idle_timeout_seconds integer not null,
    turn_timeout_seconds integer not null,
    last_used_at         timestamptz not null,
    in_use_until         timestamptz,
    hold_until           timestamptz,
    labels               jsonb not null default '{}',
    metadata             json not null default '{}',
    parent_session       uuid,
    parent_snapshot      uuid,
    parent_seq           bigint,
    -- The last number given out in this session's log.
    last_seq             bigint not null default 0,
    -- Failures in a row and when to try again.
    failures             integer not null default 0,
    retry_at             timestamptz,
    -- Who reconciles it. The token grows with every change of hands; a write with an older one is refused.
    lease_owner          uuid,
    lease_machine        text,
    lease_token          bigint not null default 0,
    lease_until          timestamptz,
    created_by           text,
    created_at           timestamptz not null,
    updated_at           timestamptz not null,
    closed_at            timestamptz,
    deleted_at           timestamptz,
    -- Nothing is left of it outside this database; retention may remove the row.
    gone_at              timestamptz,
    constraint sessions_disk_needs_row check (not running_reserved or disk_reserved)
) with (fillfactor = 70);

-- A deleted session frees its name at once.
create unique index sessions_name on sessions (space_id, name) where deleted_at is null;
create index sessions_space_idx on sessions (space_id, id) where deleted_at is null;
create index sessions_labels_idx on sessions using gin (labels jsonb_path_ops) where deleted_at is null;
create index sessions_parent_idx on sessions (parent_session) where parent_session is not null;
create index sessions_origin_idx on sessions (parent_snapshot) where parent_snapshot is not null and not volume_made;
-- What an operator looks at when it starts.
create index sessions_alive_idx on sessions (id) where gone_at is null;
create index sessions_gone_idx on sessions (gone_at) where gone_at is not null;

create table turns (
    id               uuid primary key,
    session_id       uuid not null constraint turns_session references sessions on delete cascade,
    -- The user message it answers.
    seq              bigint not null,
    state            text not null constraint turns_state
                     check (state in ('queued', 'running', 'done', 'failed', 'cancelled')),
    reason           text,
    detail           text,
    agent            text,
    -- Set by whoever wants it ended; the driver ends it with this reason.
    cancel           text,
    -- Which computer it was sent to first.
    sent_incarnation bigint,
    -- The host's number of the last event that is in the log.
    host_events      bigint not null default 0,
    exit_code        integer,
    is_error         boolean not null default false,
    usage            json,
    created_at       timestamptz not null,
    started_at       timestamptz,
    deadline_at      timestamptz,
    ended_at         timestamptz,
    constraint turns_message unique (session_id, seq),
    constraint turns_ended check ((ended_at is null) = (state in ('queued', 'running')))
);
create unique index turns_one_runs on turns (session_id) where state = 'running';
create index turns_queue_idx on turns (session_id, seq) where state = 'queued';

create table messages (
    session_id uuid not null constraint messages_session references sessions on delete cascade,
    seq        bigint not null,
    role       text not null constraint messages_role check (role in ('user', 'agent')),
    agent      text,
    content    json not null,
    turn_id    uuid,
    author     text,
    created_at timestamptz not null,
    constraint messages_key primary key (session_id, seq)
);
create index messages_turn_idx on messages (turn_id);

-- One sequence a session: messages and events. The row lock on the session gives out the numbers, so the order of
-- commits is the order of numbers. A message's content is in `messages` under the same number.
create table session_log (
    session_id uuid not null constraint session_log_session references sessions on delete cascade,
    seq        bigint not null,
    kind       text not null,
    turn_id    uuid,
    data       json not null,
    bytes      integer not null default 0,
    created_at timestamptz not null,
    constraint session_log_key primary key (session_id, seq)
);

create table snapshots (
    id               uuid primary key,
    space_id         uuid not null constraint snapshots_space references spaces on delete restrict,
    session_id       uuid not null,
    volume_id        uuid not null,
    -- Made for one fork and removed when the fork has its volume; such a one has no name and is in no list.
    for_fork         boolean not null default false,
    name             text,
    state            text not null constraint snapshots_state check (state in ('pending', 'ready', 'failed')),
    state_reason     text,
    attempts         integer not null default 0,
    image_name       text not null,
    image_digest     text not null,
    disk_mib         integer not null,
    disk_reserved    boolean not null default false,
    -- The last number of the session's log when it was asked for.
    message_seq      bigint not null,
    bytes            bigint,
    stall_micros     bigint,
    labels           jsonb not null default '{}',
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    deleted_at       timestamptz,
    gone_at          timestamptz
);
create unique index snapshots_name on snapshots (session_id, name) where deleted_at is null and name is not null;
create index snapshots_space_idx on snapshots (space_id, id) where deleted_at is null;
create index snapshots_pending_idx on snapshots (session_id, id) where state = 'pending' and deleted_at is null;
create index snapshots_doomed_idx on snapshots (session_id, id) where deleted_at is not null and gone_at is null;
create index snapshots_gone_idx on snapshots (gone_at) where gone_at is not null;

-- The same table stands in the code (`State::may_become`); a test compares the two.
create function session_may_become(was text, now_is text) returns boolean language sql immutable as $$
    select (was, now_is) in (
        ('init', 'idle'), ('init', 'closed'), ('init', 'error'),
        ('idle', 'busy'), ('idle', 'closed'), ('idle', 'error'),
        ('busy', 'idle'), ('busy', 'closed'), ('busy', 'error'),
        ('closed', 'idle'), ('closed', 'error'),
        ('error', 'init'), ('error', 'closed'))
$$;

-- A soft change of state leaves log and outbox to `session_announce`, which follows at once. Its transaction need not wait for the
-- disk: what a crash of the database takes back nobody can have read under a number, and the reconciler does it again.
create function session_announce(the_session uuid, the_time timestamptz) returns boolean language plpgsql as $$
declare
    s sessions;
begin
    select * into s from sessions where id = the_session for update;
    if not found or s.owed is null then
        return false;
    end if;
    update sessions set owed = null, last_seq = last_seq + 1 where id = the_session;
    insert into session_log (session_id, seq, kind, data, created_at)
    values (the_session, s.last_seq + 1, 'session.state',
        json_build_object('state', s.state, 'was', s.owed, 'desired', s.desired, 'reason', s.state_reason), the_time);
    if s.deleted_at is null then
        insert into events (space_id, kind, resource, resource_id, name, resource_version, data, created_at)
        values (s.space_id, 'updated', 'sessions', s.id, s.name, s.resource_version,
            jsonb_build_object('state', s.state, 'desired', s.desired, 'reason', s.state_reason), the_time);
    end if;
    return true;
end $$;

-- The only way a session changes its state: locks the row, checks the fencing token (null: a user's call), checks that
-- the one state may follow the other, releases what a session that is down does not use, and writes log and outbox.
create function session_move(
    the_session uuid, the_token bigint, the_state text, the_reason text, the_time timestamptz, soft boolean,
    out outcome text, out was text
) language plpgsql as $$
declare
    s sessions;
    down boolean := the_state in ('closed', 'error');
begin
    select * into s from sessions where id = the_session for update;
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
    elsif the_state = 'closed' and s.desired <> 'closed' then
        outcome := 'unwanted';
        return;
    end if;
    -- What was left unsaid comes first.
    perform session_announce(the_session, the_time);
    if down and s.running_reserved then
        update space_usage
        set running_sessions = running_sessions - 1, cpu_millis = cpu_millis - s.cpu_millis,
            memory_mib = memory_mib - s.memory_mib
        where space_id = s.space_id;
    end if;
    update sessions
    set state = the_state,
        state_reason = the_reason,
        running_reserved = running_reserved and not down,
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

-- Next number of a session's log, with the event under it. The caller holds the row or takes it here.
create function session_say(the_session uuid, the_kind text, the_turn uuid, the_data json, the_time timestamptz)
returns bigint language sql as $$
    with s as (update sessions set last_seq = last_seq + 1 where id = the_session returning last_seq)
    insert into session_log (session_id, seq, kind, turn_id, data, bytes, created_at)
    select the_session, s.last_seq, the_kind, the_turn, the_data, octet_length(the_data::text), the_time from s
    returning seq
$$;

-- A message of a user: its number, its turn in the queue, and the wish that the session runs.
--
-- This function and those of turns below find rows by their keys alone, so one plan fits all calls. PostgreSQL would
-- make a new one for each of the first five calls of every connection, while somebody waits for the turn to start.
create function session_post(
    the_session uuid, the_turn uuid, the_content json, the_agent text, the_author text, the_limit bigint,
    the_time timestamptz,
    out outcome text, out seq bigint, out reserve boolean, out was_state text
) language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    s sessions;
begin
    select * into s from sessions where id = the_session for update;
    was_state := s.state;
    if not found or s.deleted_at is not null then
        outcome := 'missing';
        return;
    elsif s.state = 'error' then
        outcome := 'error';
        return;
    elsif (select count(*) from (
            select from turns t where t.session_id = the_session and t.state = 'queued' limit the_limit) q) >= the_limit then
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
    outcome := 'posted';
end $$;

-- The oldest queued message becomes the running turn of an idle session whose computer is up.
create function turn_claim(
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
    elsif s.state <> 'idle' or s.desired <> 'running' or s.host_socket is null then
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
    update turns t
    set state = 'running', started_at = the_time, deadline_at = deadline, sent_incarnation = s.incarnation
    where t.id = turn_id;
    perform session_say(the_session, 'turn.started', turn_id, json_build_object('message', message_seq), the_time);
    select m.content into content from messages m where m.session_id = the_session and m.seq = message_seq;
    incarnation := s.incarnation;
    outcome := 'claimed';
end $$;

-- Ends the running turn once; a second end finds it ended and changes nothing.
create function turn_end(
    the_session uuid, the_token bigint, the_turn uuid, the_state text, the_reason text, the_detail text,
    the_exit_code integer, the_error boolean, the_usage json, the_time timestamptz
) returns text language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    s sessions;
    t turns;
begin
    select * into s from sessions where id = the_session for update;
    if not found then
        return 'missing';
    elsif the_token is not null and s.lease_token <> the_token then
        return 'lease_lost';
    end if;
    update turns
    set state = the_state, reason = the_reason, detail = the_detail, exit_code = the_exit_code,
        is_error = the_error, usage = the_usage, ended_at = the_time
    where id = the_turn and session_id = the_session and state in ('queued', 'running')
    returning * into t;
    if not found then
        return 'same';
    end if;
    perform session_say(the_session, 'turn.' || the_state, the_turn,
        json_strip_nulls(json_build_object('message', t.seq, 'reason', the_reason, 'detail', the_detail,
            'exit_code', the_exit_code, 'is_error', the_error, 'usage', the_usage)), the_time);
    if s.state = 'busy' and t.started_at is not null then
        perform session_move(the_session, the_token, 'idle', null, the_time, false);
    end if;
    if the_state = 'done' and s.failures > 0 then
        -- A computer that brought a turn to its end works: what went wrong before is over.
        update sessions set failures = 0 where id = the_session;
    end if;
    return 'ended';
end $$;

-- What the host said up to its event `the_events`, once: who appends names the event before the first.
create function turn_append(
    the_session uuid, the_token bigint, the_turn uuid, the_after bigint, the_events bigint, the_kinds text[],
    the_data text[], the_content text[], the_agents text[], the_time timestamptz
) returns text language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    base bigint;
begin
    -- The session first and then its turn, as everybody does: the other order would be a deadlock one day.
    select last_seq into base from sessions where id = the_session and lease_token = the_token for update;
    if not found then
        return 'lease_lost';
    end if;
    update turns set host_events = the_events
    where id = the_turn and session_id = the_session and state = 'running' and host_events = the_after;
    if not found then
        return 'lease_lost';
    end if;
    update sessions set last_seq = base + cardinality(the_kinds) where id = the_session;
    insert into session_log (session_id, seq, kind, turn_id, data, bytes, created_at)
    select the_session, base + u.n, u.kind, the_turn, u.data::json, octet_length(coalesce(u.content, u.data)), the_time
    from unnest(the_kinds, the_data, the_content) with ordinality as u(kind, data, content, n);
    insert into messages (session_id, seq, role, agent, content, turn_id, created_at)
    select the_session, base + u.n, 'agent', u.agent, u.content::json, the_turn, the_time
    from unnest(the_content, the_agents) with ordinality as u(content, agent, n) where u.content is not null;
    return 'appended';
end $$;
