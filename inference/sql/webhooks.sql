-- Note in the caller's transaction that something happened to a prediction. One row at most, and
-- no lock that somebody else may hold; where nobody wants to be told, no row at all.
-- Replicate's short names of events are understood.
CREATE OR REPLACE FUNCTION inference_note_event(
    p_account uuid, p_type text, p_prediction uuid,
    p_url text DEFAULT '', p_events text[] DEFAULT '{}'
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO inference_webhookevent
        (id, account_id, type, prediction_id, url, events, created_at)
    SELECT uuidv7(), p_account,
        CASE p_type
            WHEN 'start' THEN 'prediction.started'
            WHEN 'output' THEN 'prediction.output'
            WHEN 'logs' THEN 'prediction.logs'
            WHEN 'completed' THEN 'prediction.completed'
            ELSE left(p_type, 32)
        END,
        p_prediction, coalesce(p_url, ''), coalesce(p_events, '{}'), clock_timestamp()
    WHERE coalesce(p_url, '') <> '' OR EXISTS (
        SELECT 1 FROM inference_webhookendpoint e WHERE e.account_id = p_account AND e.is_enabled
    )
$$;
REVOKE ALL ON FUNCTION inference_note_event(uuid, text, uuid, text, text[]) FROM PUBLIC;
