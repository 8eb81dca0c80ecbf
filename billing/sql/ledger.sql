-- The one place where money is written, with holds.sql and usage.sql. Every function locks in
-- the same order: holds first, then ledger accounts by id, then what keys have spent, so that
-- two callers never wait for each other in a circle. Who moves money twice in one transaction
-- locks the accounts of both with billing_lock first. Locks leave keys alone: rows that only
-- refer to an account do not wait. Callers have EXECUTE on these functions
-- and no right to write the tables.
--
-- SQLSTATEs of ours: SR402 not enough credit, SR404 unknown account, SR409 a key was used
-- again for something else, SR422 amounts that do not fit together.

CREATE OR REPLACE FUNCTION billing_account(p_holder uuid, p_kind text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_id uuid;
BEGIN
    -- Not by IS NOT DISTINCT FROM, which no index answers.
    IF p_holder IS NULL THEN
        SELECT id INTO v_id FROM billing_ledgeraccount
            WHERE holder_id IS NULL AND kind = p_kind;
    ELSE
        SELECT id INTO v_id FROM billing_ledgeraccount
            WHERE holder_id = p_holder AND kind = p_kind;
    END IF;
    IF v_id IS NULL THEN
        INSERT INTO billing_ledgeraccount
            (id, kind, holder_id, posted_nanos, held_nanos, min_available_nanos, created_at)
        VALUES (uuidv7(), p_kind, p_holder, 0, 0,
                CASE WHEN p_kind IN ('wallet', 'receivable', 'dispute_hold', 'payout_in_flight',
                    'refund_in_flight') THEN 0 END, clock_timestamp())
        ON CONFLICT DO NOTHING
        RETURNING id INTO v_id;
        IF v_id IS NULL THEN  -- Another caller was first.
            SELECT id INTO STRICT v_id FROM billing_ledgeraccount
                WHERE holder_id IS NOT DISTINCT FROM p_holder AND kind = p_kind;
        END IF;
    END IF;
    RETURN v_id;
END $$;


-- Post one balanced transfer. True: posted now; false: this key was posted before with
-- the same content. p_entries: [{"account": uuid, "amount": nanos}, ...].
CREATE OR REPLACE FUNCTION billing_transfer(
    p_id uuid, p_kind text, p_key text, p_reference text, p_entries jsonb,
    p_reverses uuid DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_earlier billing_transfer;
    v_count integer;
BEGIN
    SELECT count(*) INTO v_count FROM (
        SELECT a.id FROM billing_ledgeraccount a
        WHERE a.id IN (SELECT (e->>'account')::uuid FROM jsonb_array_elements(p_entries) e)
        ORDER BY a.id FOR NO KEY UPDATE
    ) locked;
    IF v_count <> jsonb_array_length(p_entries) THEN
        RAISE EXCEPTION 'a transfer names each of its accounts once, and they exist'
            USING ERRCODE = 'SR404';
    END IF;

    -- Under the locks: a concurrent repeat waits above and finds this row.
    SELECT * INTO v_earlier FROM billing_transfer WHERE idempotency_key = p_key;
    IF FOUND THEN
        IF v_earlier.kind <> p_kind OR EXISTS (
            SELECT 1
            FROM (SELECT (e->>'account')::uuid AS account, (e->>'amount')::bigint AS amount
                  FROM jsonb_array_elements(p_entries) e) wanted
            FULL JOIN (SELECT t.ledger_account_id AS account, t.amount_nanos AS amount
                       FROM billing_transferentry t WHERE t.transfer_id = v_earlier.id) posted
                USING (account, amount)
            WHERE wanted.account IS NULL OR posted.account IS NULL
        ) THEN
            RAISE EXCEPTION 'transfer_conflict' USING ERRCODE = 'SR409';
        END IF;
        RETURN false;
    END IF;

    INSERT INTO billing_transfer (id, kind, idempotency_key, reference, reverses_id, created_at)
        VALUES (p_id, p_kind, p_key, p_reference, p_reverses, clock_timestamp());
    INSERT INTO billing_transferentry (transfer_id, ledger_account_id, amount_nanos)
        SELECT p_id, (e->>'account')::uuid, (e->>'amount')::bigint
        FROM jsonb_array_elements(p_entries) e;
    BEGIN
        UPDATE billing_ledgeraccount a SET posted_nanos = a.posted_nanos + (e->>'amount')::bigint
            FROM jsonb_array_elements(p_entries) e WHERE a.id = (e->>'account')::uuid;
    EXCEPTION WHEN check_violation THEN
        RAISE EXCEPTION 'insufficient_credit' USING ERRCODE = 'SR402';
    END;
    RETURN true;
END $$;
