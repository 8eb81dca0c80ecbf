-- Versions sleep while nobody wants them, and are woken by whoever does.

-- Whether no node holds a version, nor is told to.
CREATE OR REPLACE FUNCTION inference_is_missing(p_version uuid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = public, pg_temp AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM inference_replica r WHERE r.version_id = p_version
        AND r.purpose = 'serve' AND r.wanted AND r.state NOT IN ('failed', 'lost', 'unloaded'));
END $$;

-- Whether a version is on its way, or soon will be, so that a call may wait for it: it sleeps or
-- is being woken; or a node that is heard is loading it; or none has it, and there is a node that
-- could take it. One that has failed to load in the last hour is more likely out of order.
CREATE OR REPLACE FUNCTION inference_may_wait(p_version uuid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = public, pg_temp AS $$
DECLARE
    v_heard_after timestamptz := clock_timestamp() - interval '15 seconds';
BEGIN
    RETURN EXISTS (SELECT FROM inference_deployment d
        WHERE d.version_id = p_version AND d.stopped_at IS NULL AND (
            d.slept_at IS NOT NULL OR d.waking_since IS NOT NULL
            OR EXISTS (SELECT FROM inference_replica r JOIN inference_node n ON n.id = r.node_id
                WHERE r.version_id = p_version AND r.purpose = 'serve' AND r.wanted
                    AND r.state IN ('assigned', 'fetching', 'starting', 'decrypting',
                        'validating', 'loading', 'warming')
                    AND n.revoked_at IS NULL AND n.triton_ready
                    AND n.last_seen_at > v_heard_after)
            OR inference_is_missing(p_version)
                AND EXISTS (SELECT FROM inference_node n WHERE n.revoked_at IS NULL
                    AND n.drain_requested_at IS NULL AND n.triton_ready
                    AND n.last_seen_at > v_heard_after)
                AND NOT EXISTS (SELECT FROM inference_replica r WHERE r.deployment_id = d.id
                    AND r.state = 'failed'
                    AND r.changed_at > clock_timestamp() - interval '1 hour')));
END $$;

-- Says that somebody wants a version, in the caller's transaction: nothing here waits for
-- another, and nothing is locked. A version that runs and was wanted lately is left as it is.
-- Args: p_version.
-- Returns: `state` is cold, waking or warm; `may_wait` whether it is on its way, or soon will be,
-- see `inference_may_wait`; `load_ms` how long that takes, null where nobody has measured it. All null:
-- the version is not deployed.
CREATE OR REPLACE FUNCTION inference_wake(
    p_version uuid, OUT state text, OUT may_wait boolean, OUT load_ms integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_deployment inference_deployment;
BEGIN
    SELECT * INTO v_deployment FROM inference_deployment d
        WHERE d.version_id = p_version AND d.stopped_at IS NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- The shortest idle time is a minute: who is seen as wanted a moment ago cannot be put to
    -- sleep before this transaction is over.
    IF (v_deployment.slept_at IS NOT NULL
            OR v_deployment.last_wanted_at < clock_timestamp() - interval '15 seconds'
            -- It lost its replicas, or never had one: whoever answers the wish places one.
            OR inference_is_missing(p_version))
        -- A wish that is not answered yet stands for this one, too.
        AND NOT EXISTS (SELECT FROM inference_wakewish w WHERE w.version_id = p_version)
    THEN
        INSERT INTO inference_wakewish (version_id, asked_at)
            VALUES (p_version, clock_timestamp());
        PERFORM pg_notify('strongroom_wakes', p_version::text);
    END IF;
    may_wait := inference_may_wait(p_version);
    state := CASE
        WHEN v_deployment.slept_at IS NOT NULL THEN 'cold'
        WHEN EXISTS (SELECT FROM inference_replica r WHERE r.version_id = p_version
            AND r.purpose = 'serve' AND r.wanted AND r.state = 'ready') THEN 'warm'
        ELSE 'waking' END;
    load_ms := v_deployment.cold_start_ms;
    IF load_ms IS NULL THEN
        -- Nodes have measured it; a number that is none of a load is not passed on.
        SELECT least(3600000, greatest(0, (v.certificate #>> '{benchmark,load_ms}')::numeric))
            INTO load_ms FROM marketplace_modelversion v
            WHERE v.id = p_version
                AND jsonb_typeof(v.certificate #> '{benchmark,load_ms}') = 'number';
    END IF;
END $$;

-- Notes that versions were used just now, for gateways, which say so at most twice a minute.
-- A row that was noted lately is not written again for each of them.
CREATE OR REPLACE FUNCTION inference_note_use(p_versions uuid[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE inference_deployment SET last_wanted_at = clock_timestamp()
        WHERE id IN (SELECT d.id FROM inference_deployment d
            WHERE d.version_id = ANY (p_versions) AND d.stopped_at IS NULL
                AND d.last_wanted_at < clock_timestamp() - interval '5 seconds'
            ORDER BY d.id FOR NO KEY UPDATE);
$$;

-- Whether predictions of a version wait or run that nobody's connection waits for.
CREATE OR REPLACE FUNCTION inference_has_jobs(p_version uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF to_regclass('inference_job') IS NULL THEN
        RETURN false;
    END IF;
    RETURN EXISTS (SELECT FROM inference_job j
        WHERE j.version_id = p_version AND j.state IN ('queued', 'leased', 'running'));
END $$;
