-- What may not be served any more is unloaded at once, whoever said so and by which way: nodes
-- read the desired state every second, and gateways hear of each change of it.
CREATE OR REPLACE FUNCTION inference_stop_versions(stopped uuid[]) RETURNS void LANGUAGE sql AS $$
    -- The deployment first: who places replicas for it holds its row meanwhile.
    UPDATE inference_deployment SET stopped_at = clock_timestamp()
        WHERE version_id = ANY(stopped) AND stopped_at IS NULL;
    UPDATE inference_replica SET wanted = false WHERE version_id = ANY(stopped) AND wanted;
$$;

CREATE OR REPLACE FUNCTION inference_stop_withdrawn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM inference_stop_versions(ARRAY[NEW.id]);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER inference_version_withdrawn AFTER UPDATE OF state ON marketplace_modelversion
    FOR EACH ROW WHEN (NEW.state = 'withdrawn' AND OLD.state <> 'withdrawn')
    EXECUTE FUNCTION inference_stop_withdrawn();

CREATE OR REPLACE FUNCTION inference_stop_suspended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'marketplace_account' THEN
        PERFORM inference_stop_versions(ARRAY(
            SELECT v.id FROM marketplace_modelversion v
            JOIN marketplace_aimodel m ON m.id = v.model_id WHERE m.account_id = NEW.id));
    ELSE
        PERFORM inference_stop_versions(ARRAY(
            SELECT id FROM marketplace_modelversion WHERE model_id = NEW.id));
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER inference_account_suspended AFTER UPDATE OF suspended_at ON marketplace_account
    FOR EACH ROW WHEN (NEW.suspended_at IS NOT NULL AND OLD.suspended_at IS NULL)
    EXECUTE FUNCTION inference_stop_suspended();
CREATE OR REPLACE TRIGGER inference_model_suspended AFTER UPDATE OF suspended_at ON marketplace_aimodel
    FOR EACH ROW WHEN (NEW.suspended_at IS NOT NULL AND OLD.suspended_at IS NULL)
    EXECUTE FUNCTION inference_stop_suspended();

CREATE OR REPLACE TRIGGER inference_keyshred_append_only BEFORE UPDATE OR DELETE ON inference_keyshred
    FOR EACH ROW EXECUTE FUNCTION marketplace_refuse_change();

-- The keys of before there were generations are the first ones.
INSERT INTO inference_modelkey (model_id, generation, kek_ref, created_at)
    SELECT model_id, 1, kek_ref, min(created_at) FROM inference_uploadkey
    GROUP BY model_id, kek_ref
    ON CONFLICT DO NOTHING;
