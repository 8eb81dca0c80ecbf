-- Batches: from their lines to the queue. A line is locked first, then what `inference_submit`
-- locks; nobody who holds a job, or money, waits for a line.

-- Take the batch whose turn it is, for so long that its portion is done by then: should whoever has
-- it die, another one goes on after that. No row: there is none.
CREATE OR REPLACE FUNCTION inference_take_batch(p_lease_s double precision)
RETURNS SETOF inference_batch
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE inference_batch b SET next_at = clock_timestamp() + make_interval(secs => p_lease_s)
    WHERE b.id = (
        SELECT o.id FROM inference_batch o
        WHERE o.state IN ('running', 'paused') AND o.next_at <= clock_timestamp()
            AND o.deadline_at > clock_timestamp()
        ORDER BY o.next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING b.*
$$;


-- The next lines of a batch that may go into the queue: no more than `p_limit`, no more than
-- leave `p_window` of it there, and no more than leave `p_unread` whose end nobody has noted.
CREATE OR REPLACE FUNCTION inference_list_batch_lines(
    p_batch uuid, p_limit integer, p_window integer, p_unread integer
) RETURNS TABLE (id bigint, number integer, input jsonb, is_full boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_queued integer;
    v_open integer;
    v_room integer;
BEGIN
    SELECT count(*), count(j.id) INTO v_queued, v_open
        FROM inference_batchline l LEFT JOIN inference_job j ON j.id = l.prediction_id
            AND j.state IN ('queued', 'leased', 'running')
        WHERE l.batch_id = p_batch AND l.state = 'queued';
    v_room := greatest(0, least(p_limit, p_window - v_open, p_unread - v_queued));
    IF v_room = 0 THEN
        RETURN QUERY SELECT NULL::bigint, NULL::integer, NULL::jsonb, true;
        RETURN;
    END IF;
    RETURN QUERY SELECT l.id, l.number, l.input, v_room < p_limit FROM inference_batchline l
        WHERE l.batch_id = p_batch AND l.state = 'waiting' ORDER BY l.number LIMIT v_room;
END $$;


-- Put a line into the queue: all of it, or nothing. As `inference_submit` answers, and 'gone' where
-- the line waits no more, or its batch may not go on.
CREATE OR REPLACE FUNCTION inference_submit_line(
    p_line bigint, p_job jsonb, p_input jsonb, p_queued_max integer
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_outcome text;
BEGIN
    PERFORM 1 FROM inference_batchline l JOIN inference_batch b ON b.id = l.batch_id
        WHERE l.id = p_line AND l.state = 'waiting' AND b.state IN ('running', 'paused')
            AND b.account_id = (p_job->>'account_id')::uuid
            AND b.version_id = (p_job->>'version_id')::uuid
        FOR UPDATE OF l;
    IF NOT FOUND THEN
        RETURN 'gone';
    END IF;
    v_outcome := inference_submit(p_job, p_input, p_queued_max);
    IF v_outcome = 'queued' THEN
        UPDATE inference_batchline l SET state = 'queued', prediction_id = (p_job->>'id')::uuid,
                input = NULL
            WHERE l.id = p_line;
    END IF;
    RETURN v_outcome;
END $$;


-- A line that can never run. Returns whether it waited.
CREATE OR REPLACE FUNCTION inference_fail_line(p_line bigint, p_code text, p_detail text)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE inference_batchline l SET state = 'failed', code = left(p_code, 64),
            detail = left(p_detail, 1000), input = NULL
        WHERE l.id = p_line AND l.state = 'waiting';
    RETURN FOUND;
END $$;


-- How a portion ended: the batch goes on, or is paused, and when it is looked at again.
CREATE OR REPLACE FUNCTION inference_note_portion(
    p_batch uuid, p_state text, p_reason text, p_detail text, p_wait_s double precision
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF p_state NOT IN ('running', 'paused') THEN
        RAISE EXCEPTION 'a portion ends a batch in no other way' USING ERRCODE = 'SR422';
    END IF;
    UPDATE inference_batch b SET state = p_state, reason = left(p_reason, 64),
            detail = left(p_detail, 1000),
            next_at = clock_timestamp() + make_interval(secs => p_wait_s),
            paused_at = CASE WHEN p_state = 'running' THEN NULL
                ELSE coalesce(b.paused_at, clock_timestamp()) END
        WHERE b.id = p_batch AND b.state IN ('running', 'paused');
    RETURN FOUND;
END $$;
