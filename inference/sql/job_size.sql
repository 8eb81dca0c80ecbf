-- What is larger than every machine of the fleet will never run, however long it waits.

-- The most bytes that a machine could hold of a model: all of its memory, that of its GPUs beside
-- it. More than it really can; a version that weighs more fits under no circumstances. Infinite
-- where the node has not said how much it has.
CREATE OR REPLACE FUNCTION inference_node_capacity(p_info jsonb) RETURNS numeric
LANGUAGE sql IMMUTABLE SET search_path = public, pg_temp AS $$
    SELECT CASE WHEN jsonb_typeof(p_info->'memory_total_bytes') = 'number'
        THEN (p_info->>'memory_total_bytes')::numeric + coalesce((
            SELECT sum((g->>'memory_total_bytes')::numeric) FROM jsonb_array_elements(
                CASE WHEN jsonb_typeof(p_info->'gpus') = 'array' THEN p_info->'gpus'
                    ELSE '[]' END) g
            WHERE jsonb_typeof(g->'memory_total_bytes') = 'number'), 0)
        ELSE 'Infinity' END;
$$;

-- The largest capacity of the fleet; null where no node is known. One that is silent or draining
-- may come back, and one that was revoked lately is perhaps being replaced: they count.
CREATE OR REPLACE FUNCTION inference_largest_capacity() RETURNS numeric
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT max(inference_node_capacity(n.info)) FROM inference_node n
        WHERE n.revoked_at IS NULL OR n.revoked_at > clock_timestamp() - interval '10 minutes';
$$;

-- Whether a version is larger than every node that is known. Its sealed files are as long as what
-- they hold, and all of that must lie in memory. One that is loaded somewhere fits, whatever the
-- numbers say; of one without files nobody knows.
CREATE OR REPLACE FUNCTION inference_fits_nowhere(p_version uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT coalesce((SELECT a.size_bytes > inference_largest_capacity() FROM inference_artifact a
            WHERE a.version_id = p_version), false)
        AND NOT EXISTS (SELECT FROM inference_replica r
            WHERE r.version_id = p_version AND r.state = 'ready' AND r.wanted);
$$;

-- End one job that waits for a node that is large enough, where there is none any more: it is
-- dead, costs nothing, and an admin may run it again when there is one. Returns whether there was
-- one. One at a time, as with all that gives money back.
CREATE OR REPLACE FUNCTION inference_end_unplaceable() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_job inference_job;
    v_version uuid;
BEGIN
    FOR v_version IN SELECT DISTINCT f.version_id FROM inference_jobflow f
        JOIN inference_artifact a ON a.version_id = f.version_id
        WHERE f.offered_count + f.parked_count > 0
            AND a.size_bytes > inference_largest_capacity()
    LOOP
        CONTINUE WHEN NOT inference_fits_nowhere(v_version);
        SELECT * INTO v_job FROM inference_job j
            WHERE j.version_id = v_version AND j.state = 'queued'
            ORDER BY j.id LIMIT 1 FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        IF v_job.hold_id IS NOT NULL THEN
            PERFORM billing_give_back(ARRAY[v_job.hold_id], NULL::bigint[]);
        END IF;
        PERFORM inference_close_job(
            v_job, 'dead', 0, NULL, 'no_node_large_enough', '', 0, true);
        RETURN true;
    END LOOP;
    RETURN false;
END $$;
