-- Give a dead job up for good, for an admin. Returns
--   discarded       it is out of the queue, and its account has it as a prediction that failed
--   was_discarded   somebody has done that before; nothing was changed
--   not_dead        it waits or runs again, is over, or was never there
-- Nobody is told: its account has heard that it failed when it died.
CREATE OR REPLACE FUNCTION inference_discard_job(p_id uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_job inference_job;
BEGIN
    -- The job first, as everywhere: who runs it again holds the same row, and one of both finds
    -- that it is not dead any more.
    SELECT * INTO v_job FROM inference_job j WHERE j.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN CASE WHEN EXISTS (SELECT 1 FROM inference_finishedjob f
            WHERE f.id = p_id AND f.discarded_at IS NOT NULL)
            THEN 'was_discarded' ELSE 'not_dead' END;
    END IF;
    IF v_job.state <> 'dead' THEN
        RETURN 'not_dead';
    END IF;
    -- Its money went back when it died, in the same transaction. The rest is as the archive does it
    -- with what was dead for too long.
    INSERT INTO inference_finishedjob (id, account_id, version_id, state, priority, attempt,
            node_id, error, created_at, started_at, finished_at, discarded_at)
        VALUES (v_job.id, v_job.account_id, v_job.version_id, v_job.state, v_job.priority,
            v_job.attempt, v_job.lease_node_id, v_job.error, v_job.created_at, v_job.started_at,
            v_job.finished_at, clock_timestamp());
    INSERT INTO inference_prediction (id, account_id, api_key_id, version_id, state, source,
            protocol, rows, cost_nanos, error, predict_time_us, created_at, completed_at)
        VALUES (v_job.id, v_job.account_id, v_job.api_key_id, v_job.version_id, 'failed',
            v_job.source, v_job.protocol, v_job.rows, 0, v_job.error, 0, v_job.created_at,
            v_job.finished_at);
    DELETE FROM inference_jobinput i WHERE i.job_id = p_id;
    DELETE FROM inference_job j WHERE j.id = p_id;
    RETURN 'discarded';
END $$;
