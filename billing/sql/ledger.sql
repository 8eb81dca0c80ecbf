-- The one place where money is written. Every function locks in the same order: holds
-- first, then ledger accounts by id, so that two callers never wait for each other in a
-- circle. Callers have EXECUTE on these functions and no right to write the tables.
--
-- SQLSTATEs of ours: SR402 not enough credit, SR404 unknown account, SR409 a key was used
-- again for something else, SR422 amounts that do not fit together.

CREATE OR REPLACE FUNCTION billing_account(p_holder uuid, p_kind text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_id uuid;
BEGIN
    SELECT id INTO v_id FROM billing_ledgeraccount
        WHERE holder_id IS NOT DISTINCT FROM p_holder AND kind = p_kind;
    IF v_id IS NULL THEN
        INSERT INTO billing_ledgeraccount
            (id, kind, holder_id, posted_nanos, held_nanos, min_available_nanos, created_at)
        VALUES (uuidv7(), p_kind, p_holder, 0, 0,
                CASE WHEN p_kind = 'wallet' THEN 0 END, clock_timestamp())
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
        ORDER BY a.id FOR UPDATE
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


-- Reserve money for a prediction that starts now.
CREATE OR REPLACE FUNCTION billing_hold(
    p_id uuid, p_account uuid, p_amount_nanos bigint, p_ttl_s integer
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF p_amount_nanos <= 0 OR p_ttl_s <= 0 THEN
        RAISE EXCEPTION 'a hold has an amount and a time' USING ERRCODE = 'SR422';
    END IF;
    UPDATE billing_ledgeraccount SET held_nanos = held_nanos + p_amount_nanos
        WHERE id = p_account AND kind = 'wallet'
            AND posted_nanos - held_nanos - p_amount_nanos >= min_available_nanos;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'insufficient_credit' USING ERRCODE = 'SR402';
    END IF;
    INSERT INTO billing_hold
        (id, ledger_account_id, amount_nanos, posted_nanos, state, created_at, expires_at)
    VALUES (p_id, p_account, p_amount_nanos, 0, 'pending', clock_timestamp(),
            clock_timestamp() + make_interval(secs => p_ttl_s));
END $$;


-- Book predictions that were answered, many at once: usage event, shares and transfer of
-- each, and the release of what its hold reserved beyond the price. One outcome per item:
--   settled       booked now
--   repeated      was booked before; nothing changed
--   hold_missing  its hold is gone (expired or voided); nothing was booked
-- p_items: [{prediction_id, account_id, api_key_id, version_id, creator_id, price_id, mode,
--            units, gross_nanos, occurred_at}].
CREATE OR REPLACE FUNCTION billing_settle(p_items jsonb)
RETURNS TABLE (prediction_id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_platform uuid := billing_account(NULL, 'platform_revenue');
BEGIN
    IF EXISTS (
        SELECT 1
        FROM jsonb_to_recordset(p_items) AS i(
            version_id uuid, creator_id uuid, price_id uuid, mode text, units bigint,
            gross_nanos bigint)
        LEFT JOIN billing_price p ON p.id = i.price_id
        LEFT JOIN marketplace_aimodel m ON m.id = p.model_id
        LEFT JOIN marketplace_modelversion v ON v.id = i.version_id
        WHERE p.id IS NULL OR i.units IS NULL OR i.units <= 0
            OR i.gross_nanos IS DISTINCT FROM
                CASE WHEN i.mode = 'test' THEN 0 ELSE i.units * p.nanos_per_prediction END
            OR v.model_id IS DISTINCT FROM p.model_id
            OR m.account_id IS DISTINCT FROM i.creator_id
    ) THEN
        RAISE EXCEPTION 'a usage event costs its units times the price of its own model'
            USING ERRCODE = 'SR422';
    END IF;
    PERFORM billing_account(creator_id, 'creator_payable') FROM (
        SELECT DISTINCT i.creator_id FROM jsonb_to_recordset(p_items)
            AS i(creator_id uuid, gross_nanos bigint) WHERE i.gross_nanos > 0
    ) creators;
    PERFORM 1 FROM billing_hold h
        WHERE h.id IN (SELECT i.prediction_id
                       FROM jsonb_to_recordset(p_items) AS i(prediction_id uuid))
        ORDER BY h.id FOR UPDATE;
    PERFORM 1 FROM billing_ledgeraccount a WHERE a.id IN (
            SELECT h.ledger_account_id FROM billing_hold h
                JOIN jsonb_to_recordset(p_items) AS i(prediction_id uuid)
                    ON i.prediction_id = h.id
            UNION SELECT billing_account(i.creator_id, 'creator_payable')
                FROM jsonb_to_recordset(p_items) AS i(creator_id uuid, gross_nanos bigint)
                WHERE i.gross_nanos > 0
            UNION SELECT v_platform)
        ORDER BY a.id FOR UPDATE;

    RETURN QUERY
    WITH item AS MATERIALIZED (
        SELECT DISTINCT ON (i.prediction_id) i.*,
            i.gross_nanos * p.creator_share_bps / 10000 AS creator_nanos,
            h.ledger_account_id AS wallet_id, h.amount_nanos AS held_nanos,
            CASE WHEN u.prediction_id IS NOT NULL THEN 'repeated'
                 WHEN i.gross_nanos = 0 THEN 'settled'
                 -- The wallet must be the consumer's own: a hold cannot be lent.
                 WHEN h.state = 'pending' AND h.amount_nanos >= i.gross_nanos
                    AND w.holder_id = i.account_id THEN 'settled'
                 ELSE 'hold_missing' END AS outcome
        FROM jsonb_to_recordset(p_items) AS i(
            prediction_id uuid, account_id uuid, api_key_id uuid, version_id uuid,
            creator_id uuid, price_id uuid, mode text, units integer, gross_nanos bigint,
            occurred_at timestamptz)
        JOIN billing_price p ON p.id = i.price_id
        LEFT JOIN billing_hold h ON h.id = i.prediction_id
        LEFT JOIN billing_ledgeraccount w ON w.id = h.ledger_account_id
        LEFT JOIN billing_usageevent u ON u.prediction_id = i.prediction_id
        ORDER BY i.prediction_id
    ), booked AS (
        SELECT * FROM item WHERE item.outcome = 'settled'
    ), charged AS (
        SELECT *, billing_account(booked.creator_id, 'creator_payable') AS payable_id
        FROM booked WHERE booked.gross_nanos > 0
    ), new_transfer AS (
        INSERT INTO billing_transfer (id, kind, idempotency_key, reference, created_at)
        SELECT c.prediction_id, 'usage', 'usage:' || c.prediction_id, '', clock_timestamp()
        FROM charged c
    ), side AS (
        SELECT c.prediction_id, c.wallet_id AS account_id, -c.gross_nanos AS amount_nanos
            FROM charged c
        UNION ALL SELECT c.prediction_id, c.payable_id, c.creator_nanos FROM charged c
        UNION ALL SELECT c.prediction_id, v_platform, c.gross_nanos - c.creator_nanos
            FROM charged c
    ), new_entry AS (
        INSERT INTO billing_transferentry (transfer_id, ledger_account_id, amount_nanos)
        SELECT s.prediction_id, s.account_id, s.amount_nanos FROM side s
        WHERE s.amount_nanos <> 0
    ), new_usage AS (
        INSERT INTO billing_usageevent (prediction_id, account_id, api_key_id, version_id,
            creator_id, price_id, mode, units, gross_nanos, transfer_id, occurred_at)
        SELECT b.prediction_id, b.account_id, b.api_key_id, b.version_id, b.creator_id,
            b.price_id, b.mode, b.units, b.gross_nanos,
            CASE WHEN b.gross_nanos > 0 THEN b.prediction_id END, b.occurred_at
        FROM booked b
    ), new_share AS (
        INSERT INTO billing_usageshare (usage_event_id, role, ledger_account_id, amount_nanos)
        SELECT c.prediction_id, 'creator', c.payable_id, c.creator_nanos FROM charged c
        UNION ALL
        SELECT c.prediction_id, 'platform', v_platform, c.gross_nanos - c.creator_nanos
            FROM charged c
    ), release AS (
        UPDATE billing_hold h SET state = 'posted', posted_nanos = b.gross_nanos
        FROM booked b WHERE h.id = b.prediction_id AND h.state = 'pending'
        RETURNING h.ledger_account_id AS account_id, h.amount_nanos
    ), change AS (
        SELECT moved.account_id, sum(moved.amount_nanos)::bigint AS posted_nanos,
            sum(moved.released_nanos)::bigint AS released_nanos
        FROM (
            SELECT s.account_id, s.amount_nanos, 0::bigint AS released_nanos FROM side s
            UNION ALL SELECT r.account_id, 0, r.amount_nanos FROM release r
        ) moved
        GROUP BY moved.account_id
    ), update_account AS (
        UPDATE billing_ledgeraccount a SET
            posted_nanos = a.posted_nanos + c.posted_nanos,
            held_nanos = a.held_nanos - c.released_nanos
        FROM change c WHERE a.id = c.account_id
    )
    SELECT item.prediction_id, item.outcome FROM item;
END $$;


-- Release holds of predictions that failed. Returns how many were released.
CREATE OR REPLACE FUNCTION billing_void(p_ids uuid[], p_state text DEFAULT 'voided')
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_count integer;
BEGIN
    PERFORM 1 FROM billing_hold h WHERE h.id = ANY (p_ids) ORDER BY h.id FOR UPDATE;
    PERFORM 1 FROM billing_ledgeraccount a
        WHERE a.id IN (SELECT h.ledger_account_id FROM billing_hold h WHERE h.id = ANY (p_ids))
        ORDER BY a.id FOR UPDATE;
    WITH released AS (
        UPDATE billing_hold h SET state = p_state
        WHERE h.id = ANY (p_ids) AND h.state = 'pending'
        RETURNING h.ledger_account_id AS account_id, h.amount_nanos
    ), change AS (
        SELECT r.account_id, sum(r.amount_nanos)::bigint AS amount_nanos FROM released r
        GROUP BY r.account_id
    ), update_account AS (
        UPDATE billing_ledgeraccount a SET held_nanos = a.held_nanos - c.amount_nanos
        FROM change c WHERE a.id = c.account_id
    )
    SELECT count(*) INTO v_count FROM released;
    RETURN v_count;
END $$;


-- Release holds whose time is over: their gateway died between hold and settle.
CREATE OR REPLACE FUNCTION billing_expire_holds(p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_ids uuid[];
BEGIN
    SELECT array_agg(id) INTO v_ids FROM (
        SELECT h.id FROM billing_hold h
        WHERE h.state = 'pending' AND h.expires_at < clock_timestamp()
        ORDER BY h.expires_at LIMIT p_limit
    ) late;
    RETURN CASE WHEN v_ids IS NULL THEN 0 ELSE billing_void(v_ids, 'expired') END;
END $$;
