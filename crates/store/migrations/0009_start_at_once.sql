-- A message to a session that waits for one becomes its running turn in the commit that takes it: who listens hears of the
-- turn's start one commit and one look of the operator earlier. What is claimed is not sent yet: `sent_incarnation` stays
-- null until the driver has put on disk which computer it sends the turn to, so that a turn whose computer turns out to be
-- gone before that is sent to the next one.

-- The oldest queued message becomes the running turn of an idle session whose computer is up.
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
    update turns t set state = 'running', started_at = the_time, deadline_at = deadline where t.id = turn_id;
    perform session_say(the_session, 'turn.started', turn_id, json_build_object('message', message_seq), the_time);
    select m.content into content from messages m where m.session_id = the_session and m.seq = message_seq;
    incarnation := s.incarnation;
    outcome := 'claimed';
end $$;

-- A message of a user: its number, its turn in the queue (or begun, where nothing is before it), and the wish that the session runs.
--
-- Which session it is, is found by key alone, here and in the functions of turns, so one plan fits all calls.
drop function session_post(uuid, uuid, json, text, text, bigint, timestamptz);
create function session_post(
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
    if waiting = 0 and s.state = 'idle' and s.desired = 'running' and s.host_socket is not null and not s.suspect
        and s.lease_until > the_time
        and not exists (select from snapshots p
            where p.session_id = the_session and p.state = 'pending' and p.deleted_at is null)
    then
        started := (select c.outcome = 'claimed' from turn_claim(the_session, s.lease_token, the_time) c);
    end if;
    outcome := 'posted';
end $$;
