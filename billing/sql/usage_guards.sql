-- What stays true of usage events even if the function that writes them is wrong.

CREATE TRIGGER billing_usageevent_transfer AFTER INSERT ON billing_usageevent
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION billing_check_usage_transfer();

-- In place of foreign keys, which would be checked for each event. Prices and transfers are
-- never deleted as it is.
CREATE OR REPLACE FUNCTION billing_keep_used_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM billing_usageevent u WHERE u.account_id = OLD.id)
        OR EXISTS (SELECT 1 FROM billing_usageevent u WHERE u.creator_id = OLD.id)
    THEN
        RAISE EXCEPTION 'an account with usage cannot be deleted' USING ERRCODE = '23503';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER billing_keep_used_account BEFORE DELETE ON marketplace_account
    FOR EACH ROW EXECUTE FUNCTION billing_keep_used_account();

CREATE OR REPLACE FUNCTION billing_keep_used_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM billing_usageevent u JOIN marketplace_aimodel m ON m.account_id = u.creator_id
        WHERE m.id = OLD.model_id AND u.version_id = OLD.id
    ) THEN
        RAISE EXCEPTION 'a version with usage cannot be deleted' USING ERRCODE = '23503';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER billing_keep_used_version BEFORE DELETE ON marketplace_modelversion
    FOR EACH ROW EXECUTE FUNCTION billing_keep_used_version();
