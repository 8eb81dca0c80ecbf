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
                coalesce(sum(e.amount_nanos) FILTER (WHERE a.kind = 'creator_reserve'), 0)
            FROM billing_transferentry e JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
            WHERE e.transfer_id = n.transfer_id)
    ) THEN
        RAISE EXCEPTION 'a usage transfer moves what its events cost' USING ERRCODE = 'SR422';
    END IF;
    RETURN NULL;
END $$;
