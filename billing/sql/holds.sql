-- Reserve money for predictions that start now, many at once. One outcome per item:
--   held                 reserved until it is settled, voided or expired
--   insufficient_credit  the wallet holds less, or the account has none; nothing was reserved
-- Exact to the last nano-dollar: where a wallet cannot pay for all of its items, they are
-- tried one after the other, in their order, as `billing_hold` would.
-- p_items: [{prediction_id, account_id, amount_nanos}].
CREATE OR REPLACE FUNCTION billing_hold_many(p_items jsonb, p_ttl_s integer)
RETURNS TABLE (prediction_id uuid, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_item record;
    v_expires_at timestamptz;
BEGIN
    IF p_ttl_s <= 0 OR EXISTS (
        SELECT 1 FROM jsonb_to_recordset(p_items) AS i(amount_nanos bigint)
        WHERE i.amount_nanos IS NULL OR i.amount_nanos <= 0
    ) THEN
        RAISE EXCEPTION 'a hold has an amount and a time' USING ERRCODE = 'SR422';
    END IF;
    PERFORM 1 FROM billing_ledgeraccount a
        WHERE a.kind = 'wallet' AND a.holder_id IN (
            SELECT i.account_id FROM jsonb_to_recordset(p_items) AS i(account_id uuid))
        ORDER BY a.id FOR NO KEY UPDATE;
    v_expires_at := clock_timestamp() + make_interval(secs => p_ttl_s);

    RETURN QUERY
    WITH item AS MATERIALIZED (
        SELECT i.prediction_id, i.amount_nanos, a.id AS wallet_id
        FROM jsonb_to_recordset(p_items)
            AS i(prediction_id uuid, account_id uuid, amount_nanos bigint)
        JOIN billing_ledgeraccount a ON a.holder_id = i.account_id AND a.kind = 'wallet'
    ), wanted AS (
        SELECT item.wallet_id, sum(item.amount_nanos) AS amount_nanos
        FROM item GROUP BY item.wallet_id
    ), paid AS (
        UPDATE billing_ledgeraccount a SET held_nanos = a.held_nanos + w.amount_nanos::bigint
        FROM wanted w
        WHERE a.id = w.wallet_id
            AND a.posted_nanos - a.held_nanos - w.amount_nanos >= a.min_available_nanos
        RETURNING a.id AS wallet_id
    ), held AS (
        INSERT INTO billing_hold
            (id, ledger_account_id, amount_nanos, posted_nanos, state, created_at, expires_at)
        SELECT item.prediction_id, item.wallet_id, item.amount_nanos, 0, 'pending',
            clock_timestamp(), v_expires_at
        FROM item JOIN paid ON paid.wallet_id = item.wallet_id
        RETURNING id
    )
    SELECT held.id, 'held'::text FROM held;

    FOR v_item IN
        SELECT i.value ->> 'prediction_id' AS id, i.value ->> 'account_id' AS account_id,
            (i.value ->> 'amount_nanos')::bigint AS amount_nanos
        FROM jsonb_array_elements(p_items) WITH ORDINALITY AS i(value, place)
        LEFT JOIN billing_hold h ON h.id = (i.value ->> 'prediction_id')::uuid
        WHERE h.id IS NULL
        ORDER BY i.place
    LOOP
        prediction_id := v_item.id::uuid;
        outcome := 'held';
        BEGIN
            PERFORM billing_hold(prediction_id, (
                SELECT a.id FROM billing_ledgeraccount a
                WHERE a.holder_id = v_item.account_id::uuid AND a.kind = 'wallet'
            ), v_item.amount_nanos, p_ttl_s);
        EXCEPTION WHEN SQLSTATE 'SR402' THEN
            outcome := 'insufficient_credit';
        END;
        RETURN NEXT;
    END LOOP;
END $$;
