-- In place of a foreign key, which would be checked for each prediction: a version that was
-- run stays.
CREATE OR REPLACE FUNCTION inference_keep_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM inference_prediction p WHERE p.version_id = OLD.id) THEN
        RAISE EXCEPTION 'a version that was run cannot be deleted' USING ERRCODE = '23503';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER inference_keep_version BEFORE DELETE ON marketplace_modelversion
    FOR EACH ROW EXECUTE FUNCTION inference_keep_version();
