-- Gateways begin, and cease, to count what a model's predictions look like at once.
CREATE OR REPLACE FUNCTION inference_notify_drift() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('strongroom_changes', json_build_object(
        'table', TG_TABLE_NAME,
        'id', CASE WHEN TG_OP = 'DELETE' THEN OLD.model_id::text ELSE NEW.model_id::text END)::text);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER inference_driftwatch_notify AFTER INSERT OR DELETE ON inference_driftwatch
    FOR EACH ROW EXECUTE FUNCTION inference_notify_drift();
