-- Budgets and quotas count what is open too, and a turn has a budget of its own.
--
-- A request reserves what it was guessed to cost in the transaction that admits it and gives it back when it is settled, so
-- requests that run beside each other pass a limit together by no more than their answers.

create index model_requests_reserved_idx on model_requests (space_id) where state = 'open';

-- Judges budgets and quotas and writes the request, before it is sent. `used` is settled, `held` is of requests that are
-- open; a limit is reached when both together reach it. The turn's budget concerns requests of a turn only.
create function model_begin(
    the_id uuid, the_space uuid, the_session uuid, the_provider text, the_model text,
    tokens_day bigint, cost_day bigint, tokens_session bigint, cost_session bigint, tokens_turn bigint, cost_turn bigint,
    the_guessed_tokens bigint, the_guessed_cost bigint, the_time timestamptz,
    out outcome text, out used bigint, out held bigint, out most bigint, out turn uuid
) language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    today date := (the_time at time zone 'UTC')::date;
    running uuid;
    tokens_space bigint;
    cost_space bigint;
    -- Reserved by what is open: of the session at this provider, of the provider, of all.
    reserved record;
    own_tokens bigint;
    own_cost bigint;
    all_tokens bigint;
    all_cost bigint;
begin
    select (quotas ->> 'model_tokens_per_day')::bigint, (quotas ->> 'model_cost_micro_usd_per_day')::bigint
    into tokens_space, cost_space
    from spaces where id = the_space;
    if not found then
        outcome := 'missing';
        return;
    end if;
    select t.id into running from turns t where t.session_id = the_session and t.state = 'running';
    if coalesce(tokens_day, cost_day, tokens_session, cost_session, tokens_turn, cost_turn, tokens_space, cost_space)
        is not null
    then
        -- One after the other: of two that begin at once each would miss what the other reserves.
        perform pg_advisory_xact_lock(hashtextextended('wharf/model-begin/' || the_space::text, 0));
        select coalesce(sum(guessed_tokens) filter (where provider = the_provider and session_id = the_session), 0)::bigint
                   as session_tokens,
               coalesce(sum(guessed_cost) filter (where provider = the_provider and session_id = the_session), 0)::bigint
                   as session_cost,
               coalesce(sum(guessed_tokens) filter (where provider = the_provider), 0)::bigint as own_tokens,
               coalesce(sum(guessed_cost) filter (where provider = the_provider), 0)::bigint as own_cost,
               coalesce(sum(guessed_tokens), 0)::bigint as all_tokens,
               coalesce(sum(guessed_cost), 0)::bigint as all_cost
        into reserved
        from model_requests where space_id = the_space and state = 'open';
    end if;
    if running is not null and coalesce(tokens_turn, cost_turn) is not null then
        select coalesce(sum(input_tokens + output_tokens + cached_tokens + cache_write_tokens), 0)::bigint,
               coalesce(sum(cost_micro_usd), 0)::bigint,
               coalesce(sum(guessed_tokens) filter (where state = 'open'), 0)::bigint,
               coalesce(sum(guessed_cost) filter (where state = 'open'), 0)::bigint
        into own_tokens, own_cost, all_tokens, all_cost
        from model_requests where turn_id = running and provider = the_provider;
        if own_tokens + all_tokens >= tokens_turn then
            outcome := 'tokens_per_turn'; used := own_tokens; held := all_tokens; most := tokens_turn;
            return;
        elsif own_cost + all_cost >= cost_turn then
            outcome := 'cost_micro_usd_per_turn'; used := own_cost; held := all_cost; most := cost_turn;
            return;
        end if;
    end if;
    if coalesce(tokens_session, cost_session) is not null then
        select coalesce(sum(input_tokens + output_tokens + cached_tokens + cache_write_tokens), 0)::bigint,
               coalesce(sum(cost_micro_usd), 0)::bigint
        into own_tokens, own_cost
        from model_usage where session_id = the_session and provider = the_provider;
        if own_tokens + reserved.session_tokens >= tokens_session then
            outcome := 'tokens_per_session'; used := own_tokens; held := reserved.session_tokens; most := tokens_session;
            return;
        elsif own_cost + reserved.session_cost >= cost_session then
            outcome := 'cost_micro_usd_per_session'; used := own_cost; held := reserved.session_cost; most := cost_session;
            return;
        end if;
    end if;
    if coalesce(tokens_day, cost_day, tokens_space, cost_space) is not null then
        select coalesce(sum(t) filter (where mine), 0)::bigint, coalesce(sum(c) filter (where mine), 0)::bigint,
               coalesce(sum(t), 0)::bigint, coalesce(sum(c), 0)::bigint
        into own_tokens, own_cost, all_tokens, all_cost
        from (select input_tokens + output_tokens + cached_tokens + cache_write_tokens as t, cost_micro_usd as c,
                     provider = the_provider as mine
              from model_usage where space_id = the_space and day = today) u;
        if own_tokens + reserved.own_tokens >= tokens_day then
            outcome := 'tokens_per_day'; used := own_tokens; held := reserved.own_tokens; most := tokens_day;
            return;
        elsif own_cost + reserved.own_cost >= cost_day then
            outcome := 'cost_micro_usd_per_day'; used := own_cost; held := reserved.own_cost; most := cost_day;
            return;
        elsif all_tokens + reserved.all_tokens >= tokens_space then
            outcome := 'model_tokens_per_day'; used := all_tokens; held := reserved.all_tokens; most := tokens_space;
            return;
        elsif all_cost + reserved.all_cost >= cost_space then
            outcome := 'model_cost_micro_usd_per_day'; used := all_cost; held := reserved.all_cost; most := cost_space;
            return;
        end if;
    end if;
    turn := running;
    insert into model_requests (id, space_id, session_id, turn_id, provider, model, state, guessed_tokens, guessed_cost,
        created_at)
    values (the_id, the_space, the_session, running, the_provider, the_model, 'open', the_guessed_tokens,
        the_guessed_cost, the_time);
    outcome := 'open';
end $$;

-- As a gateway of the previous release calls it: it knows of no turns, and judges like the new one otherwise.
create or replace function model_begin(
    the_id uuid, the_space uuid, the_session uuid, the_provider text, the_model text,
    tokens_day bigint, cost_day bigint, tokens_session bigint, cost_session bigint,
    the_guessed_tokens bigint, the_guessed_cost bigint, the_time timestamptz,
    out outcome text, out used bigint, out most bigint, out turn uuid
) language plpgsql set plan_cache_mode = force_generic_plan as $$
begin
    select m.outcome, m.used + m.held, m.most, m.turn into outcome, used, most, turn
    from model_begin(the_id, the_space, the_session, the_provider, the_model, tokens_day, cost_day, tokens_session,
        cost_session, null::bigint, null::bigint, the_guessed_tokens, the_guessed_cost, the_time) m;
end $$;
