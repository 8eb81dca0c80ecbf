-- What stays true of usage events even if the function that writes them is wrong.

-- A transfer of usage moves exactly what its events cost, and to their creator their part.
CREATE OR REPLACE FUNCTION billing_check_usage_transfer() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM (
            SELECT u.transfer_id, sum(u.gross_nanos) AS gross_nanos,
                sum(u.creator_nanos) AS creator_nanos
            FROM new_rows u WHERE u.transfer_id IS NOT NULL GROUP BY u.transfer_id
        ) n WHERE (n.gross_nanos, n.creator_nanos) <> (
            SELECT coalesce(sum(e.amount_nanos) FILTER (WHERE e.amount_nanos > 0), 0),
                coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'creator_payable'), 0)
            FROM billing_transferentry e JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
            WHERE e.transfer_id = n.transfer_id)
    ) THEN
        RAISE EXCEPTION 'a usage transfer moves what its events cost' USING ERRCODE = 'SR422';
    END IF;
    RETURN NULL;
END $$;
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
