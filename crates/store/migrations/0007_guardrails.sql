-- Guardrails: policies of a space, and what waits for somebody's yes.

create table policies (
    id               uuid primary key,
    space_id         uuid not null constraint policies_space references spaces on delete cascade,
    name             text not null,
    labels           jsonb not null default '{}',
    -- The smaller is asked first; of equals the one whose name comes first.
    priority         integer not null,
    rules            json not null,
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    constraint policies_name unique (space_id, name)
);

create table approvals (
    id               uuid primary key,
    space_id         uuid not null,
    session_id       uuid not null constraint approvals_session references sessions on delete cascade,
    -- The turn that waits; none for what leaves a session outside of turns.
    turn_id          uuid,
    -- What asks, with a hash of what it asks: asked again it is the same approval.
    key              text not null,
    phase            text not null,
    state            text not null constraint approvals_state
                     check (state in ('pending', 'allowed', 'denied', 'expired', 'cancelled')),
    policy           text not null,
    rule             integer not null,
    reason           text,
    tool             text,
    summary          text not null,
    subject          json not null,
    requested_at     timestamptz not null,
    expires_at       timestamptz not null,
    decided_at       timestamptz,
    decided_by       text,
    decision_reason  text,
    resource_version bigint not null default 1,
    constraint approvals_asked_once unique (session_id, key),
    constraint approvals_decided check ((decided_at is null) = (state = 'pending'))
);
create index approvals_space_idx on approvals (space_id, id);
create index approvals_expiry_idx on approvals (expires_at) where state = 'pending';
create index approvals_turn_idx on approvals (turn_id) where state = 'pending';
create index approvals_session_idx on approvals (session_id) where state = 'pending';
create index approvals_decided_idx on approvals (decided_at) where decided_at is not null;

-- Asks, once: the approval with the session's log and the outbox. Asked with the same key again it is found. Who waits inside a turn
-- waits no longer than the turn.
create function approval_ask(
    the_id uuid, the_session uuid, the_key text, the_phase text, the_policy text, the_rule integer, the_reason text,
    the_tool text, the_summary text, the_subject json, the_seconds integer, the_most bigint, the_time timestamptz,
    out outcome text, out approval_id uuid
) language plpgsql as $$
declare
    s sessions;
    t turns;
    ends timestamptz;
    said json;
begin
    select * into s from sessions where id = the_session for update;
    if not found or s.deleted_at is not null then
        outcome := 'missing';
        return;
    end if;
    select a.id into approval_id from approvals a where a.session_id = the_session and a.key = the_key;
    if found then
        outcome := 'known';
        return;
    elsif (select count(*) from approvals a where a.session_id = the_session and a.state = 'pending') >= the_most then
        outcome := 'full';
        return;
    end if;
    select * into t from turns where session_id = the_session and state = 'running';
    ends := least(the_time + make_interval(secs => the_seconds), t.deadline_at);
    insert into approvals (id, space_id, session_id, turn_id, key, phase, state, policy, rule, reason, tool, summary, subject,
        requested_at, expires_at)
    values (the_id, s.space_id, the_session, t.id, the_key, the_phase, 'pending', the_policy, the_rule, the_reason, the_tool,
        the_summary, the_subject, the_time, ends);
    said := json_build_object('id', the_id, 'phase', the_phase, 'policy', the_policy, 'rule', the_rule, 'reason', the_reason,
        'tool', the_tool, 'summary', the_summary, 'subject', the_subject,
        'expires_at', to_char(ends at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'));
    perform session_say(the_session, 'approval.requested', t.id, said, the_time);
    insert into events (space_id, kind, resource, resource_id, name, resource_version, data, created_at)
    values (s.space_id, 'created', 'approvals', the_id, s.name, 1,
        said::jsonb || jsonb_build_object('state', 'pending', 'session', the_session), the_time);
    approval_id := the_id;
    outcome := 'asked';
end $$;

-- Decides, once: the decision with the session's log and the outbox. What comes after its time finds it expired.
create function approval_settle(the_id uuid, the_state text, the_by text, the_reason text, the_time timestamptz)
returns text language plpgsql as $$
declare
    s sessions;
    a approvals;
    now_is text := the_state;
    said json;
begin
    -- The session first, as everybody does: the other order would be a deadlock one day.
    select x.* into s from sessions x where x.id = (select session_id from approvals where id = the_id) for update;
    if not found then
        return 'missing';
    end if;
    select * into a from approvals where id = the_id for update;
    if not found then
        return 'missing';
    elsif a.state <> 'pending' then
        return 'settled';
    end if;
    if the_state in ('allowed', 'denied') and a.expires_at <= the_time then
        now_is := 'expired';
    elsif the_state = 'expired' and a.expires_at > the_time then
        return 'early';
    end if;
    update approvals
    set state = now_is, decided_at = the_time, resource_version = resource_version + 1,
        decided_by = case when now_is = the_state then the_by end,
        decision_reason = case when now_is = the_state then the_reason end
    where id = the_id;
    said := json_build_object('id', the_id, 'state', now_is, 'by', case when now_is = the_state then the_by end,
        'reason', case when now_is = the_state then the_reason end);
    perform session_say(a.session_id, 'approval.decided', a.turn_id, said, the_time);
    insert into events (space_id, kind, resource, resource_id, name, resource_version, data, created_at)
    values (s.space_id, 'updated', 'approvals', the_id, s.name, a.resource_version + 1,
        said::jsonb || jsonb_build_object('session', a.session_id, 'phase', a.phase, 'policy', a.policy), the_time);
    return now_is;
end $$;

-- Nobody waits any more for what a turn asked that is over.
create function approvals_of_turn_over() returns trigger language plpgsql as $$
begin
    perform approval_settle(a.id, 'cancelled', null, null, new.ended_at)
    from approvals a where a.turn_id = new.id and a.state = 'pending';
    return null;
end $$;
create trigger turns_approvals after update of state on turns for each row
    when (old.state in ('queued', 'running') and new.state not in ('queued', 'running'))
    execute function approvals_of_turn_over();
