-- An account that keeps nothing has nothing kept, whoever writes its rows and whatever they think
-- that it wants: the last word is here, where the rows come from.

-- Of a prediction, its row stays without what went in and came out. Only what a job gave waits for
-- whoever comes for it; the upkeep takes it away minutes later.
CREATE OR REPLACE FUNCTION inference_keep_nothing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM marketplace_account a
            WHERE a.id = NEW.account_id AND a.retention_days = 0) THEN
        NEW.input := NULL;
        IF NOT EXISTS (SELECT 1 FROM inference_job j WHERE j.id = NEW.id) THEN
            NEW.output := NULL;
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER inference_keep_nothing BEFORE INSERT ON inference_prediction
    FOR EACH ROW WHEN (NEW.input IS NOT NULL OR NEW.output IS NOT NULL)
    EXECUTE FUNCTION inference_keep_nothing();

-- A job that no node could run would keep its input for an admin to run it again: of such an
-- account, not even that.
CREATE OR REPLACE FUNCTION inference_keep_no_dead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM inference_jobinput i USING marketplace_account a
        WHERE i.job_id = NEW.id AND a.id = NEW.account_id AND a.retention_days = 0;
    RETURN NULL;
END $$;
CREATE TRIGGER inference_keep_no_dead AFTER UPDATE OF state ON inference_job
    FOR EACH ROW WHEN (NEW.state = 'dead' AND OLD.state <> 'dead')
    EXECUTE FUNCTION inference_keep_no_dead();
