-- Predictions that run later: a queue from which nodes take one job at a time.
--
-- Locks are taken in one order everywhere: the job, then its money (hold, ledger), then the flow
-- and the clock of its account, then the pace of its version.

-- A class of priority is worth this much waiting: what has waited for so long stands beside what
-- came just now and is one class more urgent.
CREATE OR REPLACE FUNCTION inference_job_aging() RETURNS interval
LANGUAGE sql IMMUTABLE AS $$ SELECT interval '60 seconds' $$;

-- How far an account's turn may run ahead of the time: who had the nodes to themselves for a while
-- is not made to wait for longer than this once others come.
CREATE OR REPLACE FUNCTION inference_job_lead() RETURNS interval
LANGUAGE sql IMMUTABLE AS $$ SELECT interval '60 seconds' $$;


-- Put the next jobs of an account and version on offer, up to its limit. Returns how many.
-- An account's jobs take turns by a clock of its own: each moves it by the time that it will
-- probably run, and it never lies behind the time. So ten jobs of one account do not wait behind
-- ten thousand of another.
CREATE OR REPLACE FUNCTION inference_offer_jobs(p_account uuid, p_version uuid) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_flow inference_jobflow;
    v_job record;
    v_at timestamptz;
    v_now timestamptz := clock_timestamp();
    v_count integer := 0;
BEGIN
    SELECT * INTO v_flow FROM inference_jobflow f
        WHERE f.account_id = p_account AND f.version_id = p_version FOR UPDATE;
    IF NOT FOUND OR v_flow.parked_count = 0 OR v_flow.offered_count >= v_flow.offered_max THEN
        RETURN 0;
    END IF;
    INSERT INTO inference_jobclock AS c (account_id, virtual_at) VALUES (p_account, v_now)
        ON CONFLICT (account_id) DO UPDATE SET virtual_at = greatest(c.virtual_at, v_now)
        RETURNING c.virtual_at INTO v_at;
    FOR v_job IN
        SELECT j.id, j.priority, j.expected_ms FROM inference_job j
        WHERE j.account_id = p_account AND j.version_id = p_version
            AND j.state = 'queued' AND NOT j.is_offered
        ORDER BY j.priority, j.id LIMIT v_flow.offered_max - v_flow.offered_count
        -- One that is being canceled now is not waited for: who cancels may wait for us.
        FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE inference_job j
            SET is_offered = true, rank_at = v_at + v_job.priority * inference_job_aging()
            WHERE j.id = v_job.id;
        v_at := least(v_at + make_interval(secs => v_job.expected_ms / 1000.0),
            v_now + inference_job_lead());
        v_count := v_count + 1;
    END LOOP;
    IF v_count > 0 THEN
        UPDATE inference_jobclock c SET virtual_at = v_at WHERE c.account_id = p_account;
        UPDATE inference_jobflow f SET offered_count = f.offered_count + v_count,
                parked_count = f.parked_count - v_count
            WHERE f.id = v_flow.id;
    END IF;
    RETURN v_count;
END $$;


-- Take a job out of its account's flow, and let the next one come up.
CREATE OR REPLACE FUNCTION inference_leave_flow(
    p_account uuid, p_version uuid, p_was_offered boolean
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE inference_jobflow f SET
            offered_count = f.offered_count - p_was_offered::integer,
            parked_count = f.parked_count - (NOT p_was_offered)::integer
        WHERE f.account_id = p_account AND f.version_id = p_version;
    PERFORM inference_offer_jobs(p_account, p_version);
END $$;


-- Accept a prediction that runs later, with its money. One row:
--   queued               it is in the queue, and what it can cost is reserved
--   insufficient_credit, budget_exceeded   as `billing_reserve` says; nothing was written
--   queue_full           its account has `p_queued_max` jobs waiting
--   claim_lost           another request has taken its idempotency key over
-- p_job: columns of inference_job, without those that the queue itself keeps; and `timeout_s` (until
-- its deadline), `has_budget` (of its key), `idempotency_key` (one that is claimed, or null).
CREATE OR REPLACE FUNCTION inference_submit(p_job jsonb, p_input jsonb, p_queued_max integer)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_job inference_job := jsonb_populate_record(NULL::inference_job, p_job);
    v_now timestamptz := clock_timestamp();
    v_timeout_s double precision := (p_job->>'timeout_s')::double precision;
    v_outcome text;
BEGIN
    IF v_timeout_s IS NULL OR v_timeout_s <= 0 OR v_job.gross_nanos < 0
        OR v_job.priority NOT BETWEEN 0 AND 2 OR v_job.attempts_max < 1 THEN
        RAISE EXCEPTION 'a job has a deadline, a price, a priority and an attempt'
            USING ERRCODE = 'SR422';
    END IF;
    IF (SELECT coalesce(sum(f.offered_count + f.parked_count), 0) FROM inference_jobflow f
        WHERE f.account_id = v_job.account_id) >= p_queued_max THEN
        RETURN 'queue_full';
    END IF;
    IF p_job->>'idempotency_key' IS NOT NULL THEN
        UPDATE inference_apirequest r SET completed_at = v_now
            WHERE r.account_id = v_job.account_id AND r.prediction_id = v_job.id
                AND r.idempotency_key = p_job->>'idempotency_key' AND r.completed_at IS NULL;
        IF NOT FOUND THEN
            RETURN 'claim_lost';
        END IF;
    END IF;
    IF v_job.gross_nanos > 0 THEN
        v_job.hold_id := v_job.id;
        SELECT r.outcome INTO v_outcome FROM billing_reserve(jsonb_build_array(jsonb_build_object(
            'hold_id', v_job.hold_id, 'account_id', v_job.account_id,
            'api_key_id', CASE WHEN (p_job->>'has_budget')::boolean THEN v_job.api_key_id END,
            'least_nanos', v_job.gross_nanos, 'most_nanos', v_job.gross_nanos
        -- A little longer than the job: its end and the money's are looked at by two clocks.
        )), ceil(v_timeout_s)::integer + 300) r;
        IF v_outcome <> 'held' THEN
            -- The key is free again, as if nothing had been asked.
            UPDATE inference_apirequest r SET completed_at = NULL
                WHERE r.account_id = v_job.account_id AND r.prediction_id = v_job.id
                    AND r.idempotency_key = p_job->>'idempotency_key';
            RETURN v_outcome;
        END IF;
    END IF;
    INSERT INTO inference_job (id, account_id, api_key_id, version_id, creator_id, price_id, mode,
            source, protocol, tag, priority, rows, gross_nanos, hold_id, is_rated, metered, expected_ms,
            ready_at, deadline_at, attempts_max, webhook_url, webhook_events, created_at)
        VALUES (v_job.id, v_job.account_id, v_job.api_key_id, v_job.version_id, v_job.creator_id,
            v_job.price_id, coalesce(v_job.mode, 'live'), coalesce(v_job.source, 'api'),
            coalesce(v_job.protocol, 'native'), coalesce(v_job.tag, ''), v_job.priority,
            coalesce(v_job.rows, 1), v_job.gross_nanos, v_job.hold_id,
            coalesce(v_job.is_rated, false), v_job.metered, coalesce(v_job.expected_ms, 1000), v_now,
            v_now + make_interval(secs => v_timeout_s), v_job.attempts_max,
            coalesce(v_job.webhook_url, ''), coalesce(v_job.webhook_events, '{}'), v_now);
    INSERT INTO inference_jobinput (job_id, input) VALUES (v_job.id, p_input);
    INSERT INTO inference_jobflow AS f (account_id, version_id, parked_count)
        VALUES (v_job.account_id, v_job.version_id, 1)
        ON CONFLICT (account_id, version_id) DO UPDATE SET parked_count = f.parked_count + 1;
    PERFORM inference_offer_jobs(v_job.account_id, v_job.version_id);
    -- Should the version sleep, a node is made to load it.
    PERFORM inference_wake(v_job.version_id);
    RETURN 'queued';
END $$;


-- Lease the next job to a free slot of a node, among the versions that it has loaded. No row: there
-- is none. The first is the one with the earliest rank (class with aging, turn of its account), then
-- with the earliest deadline; one that failed on this node waits a while for another one.
CREATE OR REPLACE FUNCTION inference_claim(
    p_node uuid, p_slot integer, p_versions uuid[], p_lease_s double precision
) RETURNS SETOF inference_job
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_next record;
    v_limit integer;
    v_count integer;
    v_candidate record;
BEGIN
    -- The first at its place or behind it, in the order of slots: a plan that was made while little
    -- was leased would otherwise look through all that is leased now, by another index.
    SELECT j.lease_node_id, j.lease_slot INTO v_next FROM inference_job j
        WHERE j.state IN ('leased', 'running')
            AND (j.lease_node_id, j.lease_slot) >= (p_node, p_slot)
        ORDER BY j.lease_node_id, j.lease_slot LIMIT 1;
    IF v_next.lease_node_id = p_node AND v_next.lease_slot = p_slot THEN
        RAISE EXCEPTION 'the slot has a job already' USING ERRCODE = 'SR409';
    END IF;
    -- Mostly the first is free. Where many claim at once, the first few may all be somebody's.
    FOREACH v_limit IN ARRAY ARRAY[16, 128, 1024] LOOP
        v_count := 0;
        FOR v_candidate IN
            SELECT c.id FROM unnest(p_versions) AS v(id) CROSS JOIN LATERAL (
                SELECT j.id, j.rank_at, j.deadline_at FROM inference_job j
                WHERE j.version_id = v.id AND j.state = 'queued' AND j.is_offered
                    AND j.ready_at <= v_now AND j.deadline_at > v_now
                    AND j.cancel_requested_at IS NULL
                    AND (j.failed_node_id IS DISTINCT FROM p_node
                        OR j.ready_at <= v_now - interval '30 seconds')
                ORDER BY j.rank_at, j.deadline_at LIMIT v_limit
            ) c ORDER BY c.rank_at, c.deadline_at, c.id LIMIT 2 * v_limit
        LOOP
            v_count := v_count + 1;
            PERFORM 1 FROM inference_job j WHERE j.id = v_candidate.id AND j.state = 'queued'
                AND j.is_offered FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
            RETURN QUERY UPDATE inference_job j SET state = 'leased', attempt = j.attempt + 1,
                    lease_node_id = p_node, lease_slot = p_slot, lease_epoch = j.lease_epoch + 1,
                    leased_at = v_now, lease_until = v_now + make_interval(secs => p_lease_s)
                WHERE j.id = v_candidate.id RETURNING j.*;
            RETURN;
        END LOOP;
        EXIT WHEN v_count = 0;
    END LOOP;
END $$;


-- Prolong leases, note which have begun to run, and say what is to be done. One row per job:
--   go      goes on
--   cancel  its account wants it no more: stop it, and say how far it came
--   stale   it is somebody else's now: stop it, and say nothing
CREATE OR REPLACE FUNCTION inference_heartbeat(
    p_node uuid, p_ids uuid[], p_epochs bigint[], p_running boolean[], p_lease_s double precision
) RETURNS TABLE (job_id uuid, word text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY
    WITH given AS MATERIALIZED (
        SELECT DISTINCT ON (g.id) g.id, g.epoch, g.is_running
        FROM unnest(p_ids, p_epochs, p_running) AS g(id, epoch, is_running) ORDER BY g.id
    ), mine AS MATERIALIZED (
        SELECT j.id, g.is_running, g.is_running AND j.state = 'leased' AS is_new
        FROM given g JOIN inference_job j ON j.id = g.id
        WHERE j.lease_epoch = g.epoch AND j.lease_node_id = p_node
            AND j.state IN ('leased', 'running')
        ORDER BY j.id FOR UPDATE OF j
    ), kept AS (
        UPDATE inference_job j SET lease_until = v_now + make_interval(secs => p_lease_s),
            state = CASE WHEN m.is_running THEN 'running' ELSE j.state END,
            started_at = CASE WHEN m.is_running THEN coalesce(j.started_at, v_now)
                ELSE j.started_at END
        FROM mine m WHERE j.id = m.id
        RETURNING j.id, j.cancel_requested_at, CASE WHEN m.is_new THEN inference_note_event(
            j.account_id, 'prediction.started', j.id, j.webhook_url, j.webhook_events) END AS told
    )
    SELECT g.id, CASE WHEN k.id IS NULL THEN 'stale'
        WHEN k.cancel_requested_at IS NOT NULL THEN 'cancel' ELSE 'go' END
    FROM given g LEFT JOIN kept k ON k.id = g.id;
END $$;


-- Note how a lease ended.
CREATE OR REPLACE FUNCTION inference_end_attempt(
    p_job inference_job, p_outcome text, p_code text, p_detail text
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO inference_jobattempt (job_id, epoch, node_id, leased_at, started_at, ended_at,
        outcome, code, detail)
    SELECT p_job.id, p_job.lease_epoch, p_job.lease_node_id, p_job.leased_at, p_job.started_at,
        clock_timestamp(), p_outcome, p_code, p_detail
    WHERE p_job.lease_node_id IS NOT NULL AND p_job.state IN ('leased', 'running')
$$;


-- The end of a job that the caller has locked: its row, its prediction, its account's next one.
-- Its money is the caller's affair.
CREATE OR REPLACE FUNCTION inference_close_job(
    p_job inference_job, p_state text, p_cost_nanos bigint, p_output jsonb, p_error text,
    p_detail text, p_predict_time_us bigint, p_is_kept boolean
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM inference_end_attempt(p_job, p_state, p_error, p_detail);
    UPDATE inference_job j SET state = p_state, cost_nanos = p_cost_nanos, error = p_error,
            detail = p_detail, predict_time_us = p_predict_time_us, finished_at = v_now,
            is_offered = false, lease_slot = NULL, lease_until = NULL
        WHERE j.id = p_job.id;
    IF p_state <> 'dead' THEN
        INSERT INTO inference_prediction (id, account_id, api_key_id, version_id, state, source,
                protocol, rows, cost_nanos, input, output, error, predict_time_us, created_at,
                completed_at)
            SELECT p_job.id, p_job.account_id, p_job.api_key_id, p_job.version_id, p_state,
                p_job.source, p_job.protocol, p_job.rows, p_cost_nanos,
                CASE WHEN p_is_kept THEN i.input END, CASE WHEN p_is_kept THEN p_output END,
                p_error, p_predict_time_us, p_job.created_at, v_now
            FROM (SELECT p_job.id) AS o(id) LEFT JOIN inference_jobinput i ON i.job_id = o.id;
        DELETE FROM inference_jobinput i WHERE i.job_id = p_job.id;
    END IF;
    PERFORM inference_note_event(p_job.account_id, 'prediction.completed', p_job.id,
        p_job.webhook_url, p_job.webhook_events);
    PERFORM inference_leave_flow(p_job.account_id, p_job.version_id,
        p_job.is_offered OR p_job.state IN ('leased', 'running'));
    IF p_state = 'succeeded' THEN
        INSERT INTO inference_jobpace AS p (version_id, mean_us, job_count)
            VALUES (p_job.version_id, p_predict_time_us, 1)
            ON CONFLICT (version_id) DO UPDATE SET job_count = p.job_count + 1,
                mean_us = p.mean_us + (excluded.mean_us - p.mean_us) / least(p.job_count + 1, 20);
    END IF;
END $$;


-- Take the result of a lease and book it. Whoever no longer holds the lease gets 'stale', and
-- changes nothing: another node has the job, or it is over. Otherwise:
--   settled   it succeeded, or was canceled with something delivered, and is paid for
--   free      it is over and costs nothing
--   unpaid    its money was gone (its hold expired): it has failed, and costs nothing
-- What is left of the hold goes back by `inference_return_holds`, in another transaction: it locks
-- accounts in an order of its own.
-- p_metered: units by kind, where its price is rated. p_is_charged: whether something was delivered
-- that has its price. p_is_kept: whether input and output may be kept.
CREATE OR REPLACE FUNCTION inference_finish(
    p_node uuid, p_id uuid, p_epoch bigint, p_state text, p_output jsonb, p_error text,
    p_predict_time_us bigint, p_metered jsonb, p_is_charged boolean, p_is_kept boolean
) RETURNS TABLE (outcome text, cost_nanos bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    v_job inference_job;
    v_booked record;
BEGIN
    SELECT * INTO v_job FROM inference_job j WHERE j.id = p_id AND j.lease_node_id = p_node
        AND j.lease_epoch = p_epoch AND j.state IN ('leased', 'running') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'stale', 0::bigint;
        RETURN;
    END IF;
    IF p_state NOT IN ('succeeded', 'failed', 'canceled')
        OR (p_state = 'succeeded' AND NOT p_is_charged) OR (p_state = 'failed' AND p_is_charged) THEN
        RAISE EXCEPTION 'what succeeds has its price, what fails has none' USING ERRCODE = 'SR422';
    END IF;
    IF v_job.state = 'leased' AND p_predict_time_us > 0 THEN
        -- It was over before its first heartbeat, which tells that it has begun.
        PERFORM inference_note_event(v_job.account_id, 'prediction.started', v_job.id,
            v_job.webhook_url, v_job.webhook_events);
    END IF;
    IF NOT p_is_charged THEN
        IF v_job.hold_id IS NOT NULL THEN
            PERFORM billing_give_back(ARRAY[v_job.hold_id], NULL::bigint[]);
        END IF;
        PERFORM inference_close_job(v_job, p_state, 0, NULL, p_error, '', p_predict_time_us,
            p_is_kept);
        RETURN QUERY SELECT 'free', 0::bigint;
        RETURN;
    END IF;
    SELECT s.outcome, s.gross_nanos INTO v_booked FROM billing_settle(
        jsonb_build_array(jsonb_build_object('no', 0, 'account_id', v_job.account_id,
            'api_key_id', v_job.api_key_id, 'version_id', v_job.version_id,
            'creator_id', v_job.creator_id, 'price_id', v_job.price_id, 'mode', v_job.mode,
            'hold_id', v_job.hold_id, 'tag', v_job.tag)),
        ARRAY[v_job.id], ARRAY[0], ARRAY[v_job.rows::integer], ARRAY[v_job.gross_nanos],
        ARRAY[clock_timestamp()],
        CASE WHEN v_job.is_rated THEN jsonb_build_array(coalesce(p_metered, 'null')) END) s;
    IF v_booked.outcome = 'hold_missing' THEN
        PERFORM inference_close_job(v_job, 'failed', 0, NULL, 'insufficient_credit', '',
            p_predict_time_us, p_is_kept);
        RETURN QUERY SELECT 'unpaid', 0::bigint;
        RETURN;
    END IF;
    PERFORM inference_close_job(v_job, p_state, v_booked.gross_nanos, p_output, p_error, '',
        p_predict_time_us, p_is_kept);
    RETURN QUERY SELECT 'settled', v_booked.gross_nanos;
END $$;


-- A lease that came to nothing through no fault of the model: again on another node, or, when its
-- attempts are used up, nowhere. The caller has locked the job. Returns its state.
CREATE OR REPLACE FUNCTION inference_requeue(p_job inference_job, p_code text, p_detail text)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_state text := CASE WHEN p_job.cancel_requested_at IS NOT NULL THEN 'canceled'
        WHEN p_job.attempt >= p_job.attempts_max THEN 'dead' ELSE 'queued' END;
BEGIN
    IF v_state <> 'queued' THEN
        IF p_job.hold_id IS NOT NULL THEN
            PERFORM billing_give_back(ARRAY[p_job.hold_id], NULL::bigint[]);
        END IF;
        PERFORM inference_close_job(p_job, v_state, 0, NULL,
            CASE v_state WHEN 'dead' THEN p_code ELSE 'canceled' END, p_detail, 0, true);
        RETURN v_state;
    END IF;
    PERFORM inference_end_attempt(p_job, 'lost', p_code, p_detail);
    UPDATE inference_job j SET state = 'queued', failed_node_id = p_job.lease_node_id,
            -- 1, 2, 4, … seconds, up to a minute, and a part of it more, so that many do not
            -- come back at once.
            ready_at = clock_timestamp() + make_interval(
                secs => least(60, 2 ^ (p_job.attempt - 1)) * (1 + random() / 2)),
            lease_slot = NULL, lease_until = NULL, started_at = NULL, error = p_code,
            detail = p_detail
        WHERE j.id = p_job.id;
    RETURN 'queued';
END $$;


-- A node gives a job back that it cannot finish. Returns its state then, or 'stale'.
CREATE OR REPLACE FUNCTION inference_hand_back(
    p_node uuid, p_id uuid, p_epoch bigint, p_code text, p_detail text
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_job inference_job;
BEGIN
    SELECT * INTO v_job FROM inference_job j WHERE j.id = p_id AND j.lease_node_id = p_node
        AND j.lease_epoch = p_epoch AND j.state IN ('leased', 'running') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'stale';
    END IF;
    RETURN inference_requeue(v_job, p_code, p_detail);
END $$;


-- A job that a node holds goes back: it has started anew, and knows of none of it. One at a time,
-- as with all that gives money back. Returns whether there was one.
CREATE OR REPLACE FUNCTION inference_release_from_node(p_node uuid, p_code text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_job inference_job;
BEGIN
    SELECT * INTO v_job FROM inference_job j WHERE j.lease_node_id = p_node
        AND j.state IN ('leased', 'running') ORDER BY j.id LIMIT 1 FOR UPDATE;
    IF FOUND THEN
        PERFORM inference_requeue(v_job, p_code, '');
        RETURN true;
    END IF;
    RETURN false;
END $$;


-- Give a job up for its account. Returns its state: what waits is canceled at once, what runs is
-- told to stop, what is over stays as it is; null where the account has no such job.
CREATE OR REPLACE FUNCTION inference_cancel_job(p_account uuid, p_id uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_job inference_job;
BEGIN
    SELECT * INTO v_job FROM inference_job j WHERE j.id = p_id AND j.account_id = p_account
        FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF v_job.state = 'queued' THEN
        IF v_job.hold_id IS NOT NULL THEN
            PERFORM billing_give_back(ARRAY[v_job.hold_id], NULL::bigint[]);
        END IF;
        PERFORM inference_close_job(v_job, 'canceled', 0, NULL, 'canceled', '', 0, true);
        RETURN 'canceled';
    END IF;
    IF v_job.state IN ('leased', 'running') AND v_job.cancel_requested_at IS NULL THEN
        UPDATE inference_job j SET cancel_requested_at = clock_timestamp() WHERE j.id = p_id;
    END IF;
    RETURN v_job.state;
END $$;


-- Look after one thing that nobody else does: a lease that ran out, the deadline of what waits, a
-- flow that stands still. Returns which it was, or null where there is nothing left to do. One at
-- a time, because each locks the money and the flow of one account.
CREATE OR REPLACE FUNCTION inference_reap() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_job inference_job;
    v_flow record;
BEGIN
    SELECT * INTO v_job FROM inference_job j WHERE j.state IN ('leased', 'running')
        AND j.lease_until < clock_timestamp() ORDER BY j.id LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        PERFORM inference_requeue(v_job, 'node_lost', '');
        RETURN 'lost';
    END IF;
    SELECT * INTO v_job FROM inference_job j WHERE j.state = 'queued'
        AND j.deadline_at < clock_timestamp() ORDER BY j.deadline_at LIMIT 1
        FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        IF v_job.hold_id IS NOT NULL THEN
            PERFORM billing_give_back(ARRAY[v_job.hold_id], NULL::bigint[]);
        END IF;
        PERFORM inference_close_job(v_job, 'failed', 0, NULL, 'deadline_exceeded', '', 0, true);
        RETURN 'late';
    END IF;
    FOR v_flow IN SELECT f.account_id, f.version_id FROM inference_jobflow f
        WHERE f.parked_count > 0 AND f.offered_count < f.offered_max ORDER BY f.id LIMIT 1
    LOOP
        IF inference_offer_jobs(v_flow.account_id, v_flow.version_id) > 0 THEN
            RETURN 'offered';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;


-- Give back what jobs did not cost that ended just now: not of all that ended and lie here still,
-- for every gateway asks each second. What is left by then `inference_archive_jobs` gives back.
-- Returns how many holds were changed.
CREATE OR REPLACE FUNCTION inference_return_holds(p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_ids uuid[];
BEGIN
    SELECT array_agg(f.hold_id) INTO v_ids FROM (
        SELECT j.hold_id FROM inference_job j JOIN billing_hold h ON h.id = j.hold_id
        WHERE j.finished_at > clock_timestamp() - interval '2 minutes' AND h.state = 'pending'
        LIMIT p_limit
    ) f;
    RETURN CASE WHEN v_ids IS NULL THEN 0 ELSE billing_give_back(v_ids, NULL::bigint[]) END;
END $$;


-- Move what has been over for a while out of the queue; what is dead stays until it is run again
-- or is older still. Returns how many.
CREATE OR REPLACE FUNCTION inference_archive_jobs(
    p_after interval, p_dead_after interval, p_limit integer
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_ids uuid[];
    v_count integer;
BEGIN
    -- When all gateways were away, nobody has given this back.
    SELECT array_agg(f.hold_id) INTO v_ids FROM (
        SELECT j.hold_id FROM inference_job j JOIN billing_hold h ON h.id = j.hold_id
        WHERE j.finished_at < clock_timestamp() - p_after AND h.state = 'pending' LIMIT p_limit
    ) f;
    IF v_ids IS NOT NULL THEN
        PERFORM billing_give_back(v_ids, NULL::bigint[]);
    END IF;
    WITH old AS MATERIALIZED (
        SELECT j.* FROM inference_job j WHERE j.finished_at < clock_timestamp() - p_after
            AND (j.state <> 'dead' OR j.finished_at < clock_timestamp() - p_dead_after)
            AND NOT EXISTS (SELECT 1 FROM billing_hold h WHERE h.id = j.hold_id AND h.state = 'pending')
        ORDER BY j.finished_at LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), kept AS (
        INSERT INTO inference_finishedjob (id, account_id, version_id, state, priority, attempt,
            node_id, error, created_at, started_at, finished_at)
        SELECT o.id, o.account_id, o.version_id, o.state, o.priority, o.attempt, o.lease_node_id,
            o.error, o.created_at, o.started_at, o.finished_at FROM old o
    ), failed AS (
        -- What died has failed for good now, and is listed with all other predictions.
        INSERT INTO inference_prediction (id, account_id, api_key_id, version_id, state, source,
            protocol, rows, cost_nanos, error, predict_time_us, created_at, completed_at)
        SELECT o.id, o.account_id, o.api_key_id, o.version_id, 'failed', o.source, o.protocol,
            o.rows, 0, o.error, 0, o.created_at, o.finished_at FROM old o WHERE o.state = 'dead'
    ), input AS (
        DELETE FROM inference_jobinput i USING old o WHERE i.job_id = o.id
    ), gone AS (
        DELETE FROM inference_job j USING old o WHERE j.id = o.id RETURNING 1
    )
    SELECT count(*) INTO v_count FROM gone;
    RETURN v_count;
END $$;


-- Run a dead job again, for an admin: its money is reserved anew. Returns 'queued', or why not.
CREATE OR REPLACE FUNCTION inference_replay_job(p_id uuid, p_timeout_s double precision)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_job inference_job;
    v_outcome text := 'held';
BEGIN
    SELECT * INTO v_job FROM inference_job j WHERE j.id = p_id FOR UPDATE;
    IF NOT FOUND OR v_job.state <> 'dead' THEN
        RETURN 'not_dead';
    END IF;
    IF v_job.gross_nanos > 0 THEN
        v_job.hold_id := uuidv7();
        SELECT r.outcome INTO v_outcome FROM billing_reserve(jsonb_build_array(jsonb_build_object(
            'hold_id', v_job.hold_id, 'account_id', v_job.account_id, 'api_key_id', NULL,
            'least_nanos', v_job.gross_nanos, 'most_nanos', v_job.gross_nanos
        )), ceil(p_timeout_s)::integer + 300) r;
    END IF;
    IF v_outcome <> 'held' THEN
        RETURN v_outcome;
    END IF;
    UPDATE inference_job j SET state = 'queued', hold_id = v_job.hold_id, attempt = 0, error = '', detail = '',
            finished_at = NULL, started_at = NULL, is_offered = false, rank_at = NULL,
            cancel_requested_at = NULL, ready_at = clock_timestamp(),
            deadline_at = clock_timestamp() + make_interval(secs => p_timeout_s)
        WHERE j.id = p_id;
    UPDATE inference_jobflow f SET parked_count = f.parked_count + 1
        WHERE f.account_id = v_job.account_id AND f.version_id = v_job.version_id;
    PERFORM inference_offer_jobs(v_job.account_id, v_job.version_id);
    RETURN 'queued';
END $$;


-- Many rows change often, and each lives for minutes: room for changes in place, and little of what
-- is dead between what lives.
ALTER TABLE inference_job SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE inference_jobflow SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE inference_jobclock SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE inference_jobpace SET (fillfactor = 50);

-- What was tried stays as it was.
CREATE TRIGGER inference_jobattempt_append_only BEFORE UPDATE ON inference_jobattempt
    FOR EACH ROW EXECUTE FUNCTION marketplace_refuse_change();


-- Forget how old jobs were run. Returns how many rows went.
CREATE OR REPLACE FUNCTION inference_forget_jobs(p_before timestamptz, p_limit integer)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_jobs integer;
    v_attempts integer;
BEGIN
    DELETE FROM inference_finishedjob f WHERE f.id IN (
        SELECT o.id FROM inference_finishedjob o WHERE o.finished_at < p_before
        ORDER BY o.finished_at LIMIT p_limit);
    GET DIAGNOSTICS v_jobs = ROW_COUNT;
    DELETE FROM inference_jobattempt a WHERE a.id IN (
        SELECT o.id FROM inference_jobattempt o WHERE o.ended_at < p_before
        ORDER BY o.ended_at LIMIT p_limit);
    GET DIAGNOSTICS v_attempts = ROW_COUNT;
    RETURN v_jobs + v_attempts;
END $$;


-- An account goes: of its jobs that are over, nothing of what they carried stays. A dead one can
-- not be run again then. Returns how many had something.
CREATE OR REPLACE FUNCTION inference_erase_jobs(p_account uuid) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_count integer;
BEGIN
    DELETE FROM inference_jobinput i USING inference_job j
        WHERE i.job_id = j.id AND j.account_id = p_account AND j.finished_at IS NOT NULL;
    UPDATE inference_job j SET detail = '', webhook_url = ''
        WHERE j.account_id = p_account AND j.finished_at IS NOT NULL
            AND (j.detail <> '' OR j.webhook_url <> '');
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;
