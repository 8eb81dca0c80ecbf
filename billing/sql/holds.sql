-- Money that is reserved before it is spent. A hold is a slice of a wallet, or of the credit of
-- a postpaid account: a gateway draws on it for one prediction or for many, `billing_settle`
-- posts what was drawn, and what is left goes back when the gateway has no more use for it, or
-- by itself when its time is over.

-- The periods that a day belongs to.
CREATE OR REPLACE FUNCTION billing_periods(p_day date)
RETURNS TABLE (period text, starts_on date) LANGUAGE sql IMMUTABLE AS $$
    VALUES ('day', p_day), ('month', p_day - (extract(day FROM p_day)::integer - 1)),
        ('total', '1970-01-01'::date)
$$;


-- Note on keys' accounts what was reserved, given back or spent. Nobody else changes the same
-- rows meanwhile: who reserves or gives back has locked both the wallet and the credit of the
-- account, who settles has locked one of them, and one of those who settle comes after the other.
CREATE OR REPLACE FUNCTION billing_note_spend(
    p_keys uuid[], p_days date[], p_spent_nanos bigint[], p_held_nanos bigint[]
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off AS $$
    -- First the rows: one that takes away would be refused as new before it is found to be old.
    INSERT INTO billing_keyspend (api_key_id, period, starts_on, spent_nanos, held_nanos)
    SELECT DISTINCT c.api_key_id, n.period, n.starts_on, 0, 0
    FROM unnest(p_keys, p_days) AS c(api_key_id, day), billing_periods(c.day) n
    WHERE NOT EXISTS (
        SELECT 1 FROM billing_keyspend s WHERE s.api_key_id = c.api_key_id
            AND s.period = n.period AND s.starts_on = n.starts_on)
    ORDER BY 1, 2, 3
    ON CONFLICT (api_key_id, period, starts_on) DO NOTHING;
    UPDATE billing_keyspend s SET spent_nanos = s.spent_nanos + c.spent_nanos,
        held_nanos = s.held_nanos + c.held_nanos
    FROM (
        SELECT c.api_key_id, n.period, n.starts_on, sum(c.spent_nanos)::bigint AS spent_nanos,
            sum(c.held_nanos)::bigint AS held_nanos
        FROM unnest(p_keys, p_days, p_spent_nanos, p_held_nanos)
                AS c(api_key_id, day, spent_nanos, held_nanos),
            billing_periods(c.day) n
        GROUP BY 1, 2, 3
    ) c
    WHERE s.api_key_id = c.api_key_id AND s.period = c.period AND s.starts_on = c.starts_on
$$;


-- The budgets of a key on a day: what is left of the tightest (no row where it has none), and
-- how much of it is reserved now. The key's wallet and credit are locked by the caller.
CREATE OR REPLACE FUNCTION billing_budget_left(p_api_key uuid, p_day date)
RETURNS TABLE (left_nanos bigint, held_nanos bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT b.limit_nanos - b.spent_nanos - b.held_nanos, b.held_nanos FROM (
            SELECT coalesce(s.spent_nanos, 0) AS spent_nanos,
                coalesce(s.held_nanos, 0) AS held_nanos,
                CASE n.period WHEN 'day' THEN k.budget_day_nanos
                              WHEN 'month' THEN k.budget_month_nanos
                              ELSE k.budget_total_nanos END AS limit_nanos
            FROM billing_periods(p_day) n
            JOIN marketplace_apikey k ON k.id = p_api_key
            LEFT JOIN billing_keyspend s ON s.api_key_id = p_api_key
                AND s.period = n.period AND s.starts_on = n.starts_on
        ) b WHERE b.limit_nanos IS NOT NULL
        ORDER BY b.limit_nanos - b.spent_nanos - b.held_nanos LIMIT 1;
END $$;


-- Reserve money for predictions that start now, for many wallets at once. Each item asks for
-- at least what its prediction can cost at the most, and takes more where the wallet is far
-- from its floor. One row per item:
--   held                 `amount_nanos` is reserved until posted, given back or expired
--   insufficient_credit  there is less than the least, or no wallet and no credit
--   budget_exceeded      a budget of the key leaves less than the least
-- `may_return` tells that others hold enough of it at this moment; they are asked by a notice
-- to give back what they do not need.
-- Exact to the last nano-dollar: a sixteenth of what is free goes out as a slice, so that near
-- the floor each prediction reserves its own price. Items are served in their order.
-- An account with a credit limit pays later and reserves on its receivable, every other one on
-- its wallet. The limit counts, not the floor: that follows a lowered limit only as what is
-- owed is paid.
-- p_items: [{hold_id, account_id, api_key_id, least_nanos, most_nanos}]; `api_key_id` only
-- where the key has a budget.
CREATE OR REPLACE FUNCTION billing_reserve(p_items jsonb, p_ttl_s integer)
RETURNS TABLE (hold_id uuid, amount_nanos bigint, outcome text, may_return boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_item record;
    v_locked uuid[];
    v_wallet uuid;
    v_free bigint;
    v_held bigint;
    v_budget bigint;
    v_amount bigint;
    v_now timestamptz;
BEGIN
    IF p_ttl_s <= 0 OR EXISTS (
        SELECT 1 FROM jsonb_to_recordset(p_items) AS i(least_nanos bigint, most_nanos bigint)
        WHERE i.least_nanos IS NULL OR i.least_nanos <= 0 OR i.most_nanos < i.least_nanos
            OR i.most_nanos IS NULL
    ) THEN
        RAISE EXCEPTION 'a hold has an amount and a time' USING ERRCODE = 'SR422';
    END IF;
    SELECT array_agg(l.id) INTO v_locked FROM (
        SELECT a.id FROM billing_ledgeraccount a
        WHERE a.kind IN ('wallet', 'receivable') AND a.holder_id IN (
            SELECT i.account_id FROM jsonb_to_recordset(p_items) AS i(account_id uuid))
        ORDER BY a.id FOR NO KEY UPDATE
    ) l;
    -- Not before the locks: the day whose budgets are asked is the one that the hold counts for.
    v_now := clock_timestamp();
    FOR v_item IN
        SELECT i.* FROM ROWS FROM (jsonb_to_recordset(p_items) AS (hold_id uuid,
            account_id uuid, api_key_id uuid, least_nanos bigint, most_nanos bigint))
            WITH ORDINALITY AS i(hold_id, account_id, api_key_id, least_nanos, most_nanos, place)
        ORDER BY i.place
    LOOP
        hold_id := v_item.hold_id;
        amount_nanos := 0;
        outcome := 'insufficient_credit';
        SELECT a.id, a.posted_nanos - a.held_nanos
                + coalesce(a.credit_limit_nanos, -a.min_available_nanos), a.held_nanos
            INTO v_wallet, v_free, v_held FROM billing_ledgeraccount a
            WHERE a.holder_id = v_item.account_id AND a.id = ANY (v_locked)
                AND (a.kind = 'wallet' OR a.kind = 'receivable' AND a.credit_limit_nanos > 0)
            ORDER BY a.kind LIMIT 1;
        IF v_wallet IS NOT NULL AND v_free >= v_item.least_nanos THEN
            v_budget := NULL;
            IF v_item.api_key_id IS NOT NULL THEN
                SELECT left_nanos, held_nanos INTO v_budget, v_held
                    FROM billing_budget_left(v_item.api_key_id,
                        (v_now AT TIME ZONE 'UTC')::date);
            END IF;
            IF v_budget < v_item.least_nanos THEN
                outcome := 'budget_exceeded';
                v_free := v_budget;
            ELSE
                outcome := 'held';
                v_amount := greatest(v_item.least_nanos, least(v_item.most_nanos, v_free / 16,
                    coalesce(v_budget / 16, v_free)));
                amount_nanos := v_amount;
                UPDATE billing_ledgeraccount a SET held_nanos = a.held_nanos + v_amount
                    WHERE a.id = v_wallet;
                INSERT INTO billing_hold (id, ledger_account_id, api_key_id, amount_nanos,
                        posted_nanos, state, created_at, expires_at)
                    VALUES (v_item.hold_id, v_wallet, v_item.api_key_id, v_amount, 0, 'pending',
                        v_now, v_now + make_interval(secs => p_ttl_s));
                IF v_item.api_key_id IS NOT NULL THEN
                    PERFORM billing_note_spend(ARRAY[v_item.api_key_id],
                        ARRAY[(v_now AT TIME ZONE 'UTC')::date], ARRAY[0::bigint],
                        ARRAY[v_amount]);
                END IF;
            END IF;
        END IF;
        may_return := outcome <> 'held' AND v_free + v_held >= v_item.least_nanos;
        IF may_return THEN
            PERFORM pg_notify('strongroom_changes', json_build_object(
                'table', 'billing_hold', 'id', v_item.account_id)::text);
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;


-- Take holds back, in part or whole. The parts that were posted stay posted.
-- p_nanos: how much of each; null takes what is left. Returns how many were changed: a hold
-- that is over, or has less left, is none of them.
CREATE OR REPLACE FUNCTION billing_give_back(
    p_ids uuid[], p_nanos bigint[], p_state text DEFAULT 'voided'
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_count integer;
    v_keys uuid[];
    v_days date[];
    v_spent bigint[];
    v_held bigint[];
BEGIN
    PERFORM 1 FROM billing_hold h WHERE h.id = ANY (p_ids) ORDER BY h.id FOR UPDATE;
    PERFORM 1 FROM billing_ledgeraccount a
        WHERE a.kind IN ('wallet', 'receivable') AND a.holder_id IN (
            SELECT l.holder_id FROM billing_hold h
            JOIN billing_ledgeraccount l ON l.id = h.ledger_account_id WHERE h.id = ANY (p_ids))
        ORDER BY a.id FOR NO KEY UPDATE;
    WITH asked AS (
        SELECT DISTINCT ON (h.id) h.id, h.ledger_account_id, h.api_key_id, h.posted_nanos,
            (h.created_at AT TIME ZONE 'UTC')::date AS day, h.amount_nanos,
            coalesce(g.nanos, h.amount_nanos - h.posted_nanos) AS nanos
        FROM unnest(p_ids, p_nanos) AS g(id, nanos) JOIN billing_hold h ON h.id = g.id
        WHERE h.state = 'pending' AND coalesce(g.nanos, 0) BETWEEN 0
            AND h.amount_nanos - h.posted_nanos
        ORDER BY h.id
    ), changed AS (
        UPDATE billing_hold h SET
            -- A hold that is over keeps its amount, for people; an open one shrinks.
            amount_nanos = CASE WHEN a.nanos < a.amount_nanos - a.posted_nanos
                THEN a.amount_nanos - a.nanos ELSE h.amount_nanos END,
            state = CASE WHEN a.nanos < a.amount_nanos - a.posted_nanos THEN 'pending'
                WHEN p_state = 'voided' AND h.posted_nanos > 0 THEN 'posted' ELSE p_state END
        FROM asked a WHERE h.id = a.id
        RETURNING h.id
    ), released AS (
        UPDATE billing_ledgeraccount l SET held_nanos = l.held_nanos - a.nanos
        FROM (SELECT ledger_account_id, sum(nanos)::bigint AS nanos FROM asked GROUP BY 1) a
        WHERE l.id = a.ledger_account_id
    ), spend AS (
        SELECT api_key_id, day, sum(nanos)::bigint AS nanos FROM asked
        WHERE api_key_id IS NOT NULL GROUP BY 1, 2
    )
    SELECT (SELECT count(*) FROM changed), array_agg(s.api_key_id), array_agg(s.day),
            array_agg(0::bigint), array_agg(-s.nanos)
        INTO v_count, v_keys, v_days, v_spent, v_held FROM spend s;
    IF v_keys IS NOT NULL THEN
        PERFORM billing_note_spend(v_keys, v_days, v_spent, v_held);
    END IF;
    RETURN v_count;
END $$;


-- Release what is left of holds whose time is over: their gateway died.
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
    RETURN CASE WHEN v_ids IS NULL THEN 0
        ELSE billing_give_back(v_ids, NULL::bigint[], 'expired') END;
END $$;
