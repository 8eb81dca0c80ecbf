-- A transfer's entries come in one statement, so that it can be weighed at once.
CREATE OR REPLACE FUNCTION billing_check_balance() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off AS $$
BEGIN
    -- Transfer by transfer, each by its key: a join, planned once for an empty table, would
    -- read all entries that there are.
    IF EXISTS (
        SELECT 1 FROM (SELECT DISTINCT n.transfer_id FROM new_rows n) t WHERE (
            SELECT sum(e.amount_nanos) <> 0 OR count(*) < 2
            FROM billing_transferentry e WHERE e.transfer_id = t.transfer_id)
    ) THEN
        RAISE EXCEPTION 'the entries of a transfer sum to zero' USING ERRCODE = 'SR422';
    END IF;
    RETURN NULL;
END $$;
