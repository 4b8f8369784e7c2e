-- Model providers, every request to them, and what was used.
--
-- A request is written before it is sent and settled once when it is over: what a process that dies in between leaves is
-- found by age and charged with the estimate. Sums per day, session, provider and model are kept beside the requests,
-- because requests are forgotten after a while and bills are not.

create table providers (
    id               uuid primary key,
    space_id         uuid not null constraint providers_space references spaces on delete restrict,
    name             text not null,
    labels           jsonb not null default '{}',
    -- Also in `spec`; here so that a secret in use cannot be deleted.
    secret           text,
    spec             json not null,
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    constraint providers_name unique (space_id, name),
    constraint providers_secret foreign key (space_id, secret) references secrets (space_id, name) on delete restrict
);
create index providers_secret_idx on providers (space_id, secret) where secret is not null;

create table model_requests (
    id                 uuid primary key,
    space_id           uuid not null constraint model_requests_space references spaces on delete cascade,
    session_id         uuid not null,
    turn_id            uuid,
    provider           text not null,
    model              text not null,
    state              text not null constraint model_requests_state
                       check (state in ('open', 'done', 'failed', 'cut', 'left', 'lost')),
    -- What it is charged with when nobody comes back to settle it.
    guessed_tokens     bigint not null,
    guessed_cost       bigint not null,
    -- Of the last answer of the provider; null when there was none.
    status             integer,
    attempts           integer not null default 0,
    -- The provider did not say what was used (its stream ended early): counted from bytes.
    estimated          boolean not null default false,
    input_tokens       bigint not null default 0,
    output_tokens      bigint not null default 0,
    cached_tokens      bigint not null default 0,
    cache_write_tokens bigint not null default 0,
    cost_micro_usd     bigint not null default 0,
    created_at         timestamptz not null,
    ended_at           timestamptz,
    constraint model_requests_ended check ((ended_at is null) = (state = 'open'))
);
create index model_requests_turn_idx on model_requests (turn_id) where turn_id is not null;
create index model_requests_created_idx on model_requests (created_at);
create index model_requests_open_idx on model_requests (created_at) where state = 'open';

create table model_usage (
    space_id           uuid not null constraint model_usage_space references spaces on delete cascade,
    day                date not null,
    session_id         uuid not null,
    provider           text not null,
    model              text not null,
    requests           bigint not null default 0,
    input_tokens       bigint not null default 0,
    output_tokens      bigint not null default 0,
    cached_tokens      bigint not null default 0,
    cache_write_tokens bigint not null default 0,
    cost_micro_usd     bigint not null default 0,
    constraint model_usage_key primary key (space_id, day, session_id, provider, model)
);
create index model_usage_session_idx on model_usage (session_id, provider);
create index model_usage_day_idx on model_usage (day);

-- What the session's model requests used so far; written with each settlement.
alter table sessions add column model_usage jsonb;

-- Sums of the requests of a turn that are over; null when there was none. JSON as in `turns.usage`.
create function model_turn_usage(the_turn uuid) returns json language sql stable as $$
    select case when count(*) = 0 then null else json_strip_nulls(json_build_object(
        'requests', count(*),
        'input_tokens', sum(input_tokens), 'output_tokens', sum(output_tokens),
        'cached_tokens', sum(cached_tokens), 'cache_write_tokens', sum(cache_write_tokens),
        'cost_micro_usd', sum(cost_micro_usd),
        'model', case when count(distinct model) = 1 then min(model) end,
        'models', case when count(distinct model) > 1 then json_agg(distinct model) end,
        'estimated', case when bool_or(estimated) then true end)) end
    from model_requests where turn_id = the_turn and state <> 'open'
$$;

-- Judges budgets and quotas and writes the request, before it is sent. Uses are those that are settled: requests that run
-- beside each other may pass a limit together.
create function model_begin(
    the_id uuid, the_space uuid, the_session uuid, the_provider text, the_model text,
    tokens_day bigint, cost_day bigint, tokens_session bigint, cost_session bigint,
    the_guessed_tokens bigint, the_guessed_cost bigint, the_time timestamptz,
    out outcome text, out used bigint, out most bigint, out turn uuid
) language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    today date := (the_time at time zone 'UTC')::date;
    q jsonb;
    own_tokens bigint;
    own_cost bigint;
    all_tokens bigint;
    all_cost bigint;
begin
    select quotas into q from spaces where id = the_space;
    if not found then
        outcome := 'missing';
        return;
    end if;
    if tokens_session is not null or cost_session is not null then
        select coalesce(sum(input_tokens + output_tokens + cached_tokens + cache_write_tokens), 0),
               coalesce(sum(cost_micro_usd), 0)
        into own_tokens, own_cost
        from model_usage where session_id = the_session and provider = the_provider;
        if own_tokens >= tokens_session then
            outcome := 'tokens_per_session'; used := own_tokens; most := tokens_session;
            return;
        elsif own_cost >= cost_session then
            outcome := 'cost_micro_usd_per_session'; used := own_cost; most := cost_session;
            return;
        end if;
    end if;
    if tokens_day is not null or cost_day is not null
        or q ->> 'model_tokens_per_day' is not null or q ->> 'model_cost_micro_usd_per_day' is not null
    then
        select coalesce(sum(t) filter (where mine), 0), coalesce(sum(c) filter (where mine), 0),
               coalesce(sum(t), 0), coalesce(sum(c), 0)
        into own_tokens, own_cost, all_tokens, all_cost
        from (select input_tokens + output_tokens + cached_tokens + cache_write_tokens as t, cost_micro_usd as c,
                     provider = the_provider as mine
              from model_usage where space_id = the_space and day = today) u;
        if own_tokens >= tokens_day then
            outcome := 'tokens_per_day'; used := own_tokens; most := tokens_day;
            return;
        elsif own_cost >= cost_day then
            outcome := 'cost_micro_usd_per_day'; used := own_cost; most := cost_day;
            return;
        elsif all_tokens >= (q ->> 'model_tokens_per_day')::bigint then
            outcome := 'model_tokens_per_day'; used := all_tokens; most := (q ->> 'model_tokens_per_day')::bigint;
            return;
        elsif all_cost >= (q ->> 'model_cost_micro_usd_per_day')::bigint then
            outcome := 'model_cost_micro_usd_per_day'; used := all_cost;
            most := (q ->> 'model_cost_micro_usd_per_day')::bigint;
            return;
        end if;
    end if;
    select t.id into turn from turns t where t.session_id = the_session and t.state = 'running';
    insert into model_requests (id, space_id, session_id, turn_id, provider, model, state, guessed_tokens, guessed_cost,
        created_at)
    values (the_id, the_space, the_session, turn, the_provider, the_model, 'open', the_guessed_tokens,
        the_guessed_cost, the_time);
    outcome := 'open';
end $$;

-- Counts a request once. Who was taken for dead and comes back later finds it settled and changes nothing.
create function model_settle(
    the_id uuid, the_state text, the_status integer, the_attempts integer, the_estimated boolean,
    the_input bigint, the_output bigint, the_cached bigint, the_cache_write bigint, the_cost bigint,
    the_time timestamptz
) returns uuid language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    r model_requests;
begin
    select * into r from model_requests where id = the_id;
    if not found or r.state <> 'open' then
        return null;
    end if;
    -- The session first and then the rest, as everybody does.
    perform from sessions where id = r.session_id for update;
    update model_requests
    set state = the_state, status = the_status, attempts = the_attempts, estimated = the_estimated,
        input_tokens = the_input, output_tokens = the_output, cached_tokens = the_cached,
        cache_write_tokens = the_cache_write, cost_micro_usd = the_cost, ended_at = the_time
    where id = the_id and state = 'open'
    returning * into r;
    if not found then
        return null;
    end if;
    insert into model_usage as u (space_id, day, session_id, provider, model, requests, input_tokens, output_tokens,
        cached_tokens, cache_write_tokens, cost_micro_usd)
    values (r.space_id, (the_time at time zone 'UTC')::date, r.session_id, r.provider, r.model, 1, the_input, the_output,
        the_cached, the_cache_write, the_cost)
    on conflict (space_id, day, session_id, provider, model) do update
    set requests = u.requests + 1, input_tokens = u.input_tokens + the_input,
        output_tokens = u.output_tokens + the_output, cached_tokens = u.cached_tokens + the_cached,
        cache_write_tokens = u.cache_write_tokens + the_cache_write, cost_micro_usd = u.cost_micro_usd + the_cost;
    update sessions s
    set model_usage = jsonb_build_object(
        'requests', coalesce((s.model_usage ->> 'requests')::bigint, 0) + 1,
        'input_tokens', coalesce((s.model_usage ->> 'input_tokens')::bigint, 0) + the_input,
        'output_tokens', coalesce((s.model_usage ->> 'output_tokens')::bigint, 0) + the_output,
        'cached_tokens', coalesce((s.model_usage ->> 'cached_tokens')::bigint, 0) + the_cached,
        'cache_write_tokens', coalesce((s.model_usage ->> 'cache_write_tokens')::bigint, 0) + the_cache_write,
        'cost_micro_usd', coalesce((s.model_usage ->> 'cost_micro_usd')::bigint, 0) + the_cost)
    where s.id = r.session_id;
    -- Also of a turn that has ended already: a request may outlive it by a moment.
    update turns set usage = model_turn_usage(r.turn_id) where id = r.turn_id;
    return r.session_id;
end $$;

-- As before, but what the gateway counted stands instead of what the agent tells of itself.
create or replace function turn_end(
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
    the_usage := coalesce(model_turn_usage(the_turn), the_usage);
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
