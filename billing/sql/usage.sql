-- Book predictions that were answered, many at once: a usage event of each, one transfer for
-- all that a consumer owes a creator, and what that leaves reserved. One row per prediction:
--   settled       booked now
--   repeated      was booked before; nothing changed
--   hold_missing  its hold is gone, spent or another account's; nothing was booked
-- What many predictions have in common comes once, as a group:
-- p_groups: [{no, account_id, api_key_id, version_id, creator_id, price_id, mode, hold_id, tag}].
-- The arrays have one element for each prediction; `p_group_nos` names its group. One whose id
-- is null is left out. `p_gross_nanos` is what a prediction costs, and where its price meters or
-- counts something, what was reserved for it: the most that it may cost. Then the cost is computed
-- here (`billing_charge`), of the units in `p_metered` (an array of {kind: units} or null, in the
-- same order) and of how many rows of the month came before: `gross_nanos` of a row is what was
-- charged. A price of rows alone takes none of these steps.
CREATE OR REPLACE FUNCTION billing_settle(
    p_groups jsonb, p_ids uuid[], p_group_nos integer[], p_units integer[],
    p_gross_nanos bigint[], p_occurred_at timestamptz[], p_metered jsonb DEFAULT NULL
)
RETURNS TABLE (prediction_id uuid, outcome text, gross_nanos bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
-- Plans are made once, maybe for empty tables; each look-up is by a key, now and later. To make
-- them anew for each call would take over a quarter of its time.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    v_platform uuid;
    v_is_new boolean;
    v_versions uuid[];
    v_royalties uuid[];
    v_holds uuid[];
    v_accounts uuid[];
    v_keys uuid[];
    v_days date[];
    v_spent bigint[];
    v_held bigint[];
    v_ids uuid[];
    v_outcomes text[];
    v_gross bigint[];
BEGIN
    SELECT array_agg(DISTINCT g.hold_id), array_agg(DISTINCT c.id), bool_or(c.id IS NULL),
            array_agg(DISTINCT g.version_id),
            (SELECT id FROM billing_ledgeraccount
             WHERE holder_id IS NULL AND kind = 'platform_revenue')
        INTO v_holds, v_accounts, v_is_new, v_versions, v_platform
        FROM jsonb_to_recordset(p_groups) AS g(creator_id uuid, hold_id uuid, version_id uuid)
        LEFT JOIN billing_ledgeraccount c
            ON c.holder_id = g.creator_id AND c.kind = 'creator_reserve'
        WHERE g.hold_id IS NOT NULL;
    IF v_is_new OR v_platform IS NULL THEN
        v_platform := billing_account(NULL, 'platform_revenue');
        -- In their order, too: an account that is made here locks its name until the end.
        SELECT array_agg(billing_account(c.creator_id, 'creator_reserve')) INTO v_accounts FROM (
            SELECT DISTINCT g.creator_id
            FROM jsonb_to_recordset(p_groups) AS g(creator_id uuid, hold_id uuid)
            WHERE g.hold_id IS NOT NULL ORDER BY 1
        ) c;
    END IF;
    -- Chosen once: one that begins meanwhile must not add an account that is not locked.
    SELECT array_agg(r.id), v_accounts || array_agg(r.reserve_id) INTO v_royalties, v_accounts
        FROM billing_royalty r WHERE r.ended_at IS NULL AND r.version_id = ANY (v_versions);
    -- By arrays: each row is found by its key, in the order of the keys.
    PERFORM 1 FROM billing_hold h WHERE h.id = ANY (v_holds) ORDER BY h.id FOR UPDATE;
    v_accounts := v_accounts || v_platform || ARRAY(
        SELECT h.ledger_account_id FROM billing_hold h WHERE h.id = ANY (v_holds));
    PERFORM 1 FROM billing_ledgeraccount a WHERE a.id = ANY (v_accounts)
        ORDER BY a.id FOR NO KEY UPDATE;

    WITH party AS MATERIALIZED (
        SELECT g.*, p.creator_share_bps, w.id AS wallet_id, c.id AS payable_id,
            CASE WHEN g.mode = 'test' THEN 0 ELSE p.nanos_per_prediction END AS price_nanos,
            p.is_plain OR g.mode = 'test' AS is_plain, p.model_id,
            NOT p.is_plain AND (p.free_units > 0 OR p.tiers <> '[]') AS is_counted,
            h.api_key_id IS NOT NULL AS is_budgeted,
            (coalesce(h.created_at, clock_timestamp()) AT TIME ZONE 'UTC')::date AS day,
            v.model_id = p.model_id AND m.account_id = g.creator_id
                AND coalesce(p.account_id = g.account_id, true) AS is_own_price,
            -- The wallet must be the consumer's own: a hold cannot be lent.
            CASE WHEN h.state = 'pending' AND w.holder_id = g.account_id
                    AND (h.api_key_id IS NULL OR h.api_key_id = g.api_key_id)
                THEN h.amount_nanos - h.posted_nanos ELSE 0 END AS left_nanos
        FROM jsonb_to_recordset(p_groups) AS g(no integer, account_id uuid, api_key_id uuid,
            version_id uuid, creator_id uuid, price_id uuid, mode text, hold_id uuid, tag text)
        LEFT JOIN billing_price p ON p.id = g.price_id
        LEFT JOIN marketplace_aimodel m ON m.id = p.model_id
        LEFT JOIN marketplace_modelversion v ON v.id = g.version_id
        LEFT JOIN billing_hold h ON h.id = g.hold_id
        LEFT JOIN billing_ledgeraccount w ON w.id = h.ledger_account_id
        LEFT JOIN billing_ledgeraccount c
            ON c.holder_id = g.creator_id AND c.kind = 'creator_reserve'
    ), given AS MATERIALIZED (
        SELECT DISTINCT ON (i.id) i.id, i.group_no, i.units, i.gross_nanos, i.occurred_at,
            u.prediction_id IS NOT NULL AS is_repeated, u.gross_nanos AS booked_nanos,
            nullif(i.metered, 'null') AS metered
        FROM ROWS FROM (
            unnest(p_ids, p_group_nos, p_units, p_gross_nanos, p_occurred_at),
            jsonb_array_elements(p_metered)
        ) AS i(id, group_no, units, gross_nanos, occurred_at, metered)
        LEFT JOIN billing_usageevent u ON u.prediction_id = i.id
        WHERE i.id IS NOT NULL
        ORDER BY i.id
    ), item AS MATERIALIZED (
        SELECT i.*, y.*, CASE WHEN y.is_own_price IS NOT TRUE THEN 'foreign_price'
                 WHEN i.is_repeated THEN 'repeated'
                 WHEN i.units <= 0 OR i.gross_nanos < 0 OR (y.is_plain AND (i.metered IS NOT NULL
                    OR i.gross_nanos <> i.units * y.price_nanos)) THEN 'unpriced'
                 WHEN i.gross_nanos = 0 THEN 'settled'
                 WHEN y.left_nanos >= sum(i.gross_nanos) FILTER (WHERE NOT i.is_repeated)
                    OVER (PARTITION BY y.hold_id ORDER BY i.id) THEN 'settled'
                 ELSE 'hold_missing' END AS outcome
        FROM given i JOIN party y ON y.no = i.group_no
    ), place AS MATERIALIZED (
        -- Where each stands among the rows of its account, model and month in this batch. What
        -- has nothing reserved comes last: where it is not free, nothing behind it is, either.
        SELECT i.id, i.account_id, i.model_id, i.units,
            date_trunc('month', i.occurred_at AT TIME ZONE 'UTC')::date AS starts_on,
            sum(i.units) OVER (
                PARTITION BY i.account_id, i.model_id,
                    date_trunc('month', i.occurred_at AT TIME ZONE 'UTC')::date
                ORDER BY i.gross_nanos = 0, i.id
            ) - i.units AS place
        FROM item i WHERE NOT i.is_plain AND i.is_counted AND i.outcome = 'settled'
    ), counted AS (
        INSERT INTO billing_usagecounter AS c (account_id, model_id, starts_on, units)
        SELECT p.account_id, p.model_id, p.starts_on, sum(p.units) FROM place p
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (account_id, model_id, starts_on)
            DO UPDATE SET units = c.units + excluded.units
        RETURNING c.account_id, c.model_id, c.starts_on, c.units
    ), positioned AS MATERIALIZED (
        SELECT p.id, c.units - sum(p.units) OVER (
            PARTITION BY p.account_id, p.model_id, p.starts_on
        ) + p.place AS position
        FROM place p JOIN counted c ON c.account_id = p.account_id
            AND c.model_id = p.model_id AND c.starts_on = p.starts_on
    ), booked AS MATERIALIZED (
        SELECT r.*, r.gross_nanos * r.creator_share_bps / 10000 AS creator_nanos FROM (
            SELECT i.id, i.units, i.occurred_at, i.account_id, i.api_key_id, i.version_id,
                i.creator_id, i.price_id, i.mode, i.hold_id, i.wallet_id, i.payable_id,
                i.is_budgeted, i.day, i.metered, i.tag, i.creator_share_bps,
                p.position::bigint,
                CASE WHEN i.is_plain THEN i.gross_nanos
                    ELSE billing_charge(i.price_id, i.units, i.metered, p.position::bigint,
                        i.gross_nanos) END AS gross_nanos
            FROM item i LEFT JOIN positioned p ON p.id = i.id WHERE i.outcome = 'settled'
        ) r
    ), royalty AS MATERIALIZED (
        -- Each part is rounded down, so that together they are not more than all.
        SELECT b.id AS prediction_id, r.id AS royalty_id, r.reserve_id, b.wallet_id,
            b.payable_id, b.creator_nanos * r.bps / 10000 AS amount_nanos
        FROM unnest(v_royalties) AS chosen(id) JOIN billing_royalty r ON r.id = chosen.id
        JOIN booked b ON b.version_id = r.version_id AND b.payable_id <> r.reserve_id
        WHERE b.creator_nanos * r.bps >= 10000
    ), debt AS MATERIALIZED (
        SELECT uuidv7() AS transfer_id, d.* FROM (
            SELECT b.wallet_id, b.payable_id, sum(b.gross_nanos)::bigint AS gross_nanos,
                sum(b.creator_nanos)::bigint AS creator_nanos
            FROM booked b WHERE b.gross_nanos > 0 GROUP BY 1, 2
        ) d
    ), new_transfer AS (
        INSERT INTO billing_transfer (id, kind, idempotency_key, reference, created_at)
        SELECT d.transfer_id, 'usage', 'usage:' || d.transfer_id, '', clock_timestamp()
        FROM debt d
    ), side AS MATERIALIZED (
        SELECT d.transfer_id, d.wallet_id AS account_id, -d.gross_nanos AS amount_nanos
            FROM debt d
        UNION ALL SELECT d.transfer_id, d.payable_id, d.creator_nanos - coalesce((
                SELECT sum(y.amount_nanos) FROM royalty y
                WHERE y.wallet_id = d.wallet_id AND y.payable_id = d.payable_id), 0)::bigint
            FROM debt d
        UNION ALL SELECT d.transfer_id, y.reserve_id, sum(y.amount_nanos)::bigint
            FROM debt d JOIN royalty y
                ON y.wallet_id = d.wallet_id AND y.payable_id = d.payable_id GROUP BY 1, 2
        UNION ALL SELECT d.transfer_id, v_platform, d.gross_nanos - d.creator_nanos FROM debt d
    ), new_entry AS (
        INSERT INTO billing_transferentry (transfer_id, ledger_account_id, amount_nanos)
        SELECT s.transfer_id, s.account_id, s.amount_nanos FROM side s
        WHERE s.amount_nanos <> 0
    ), new_usage AS (
        INSERT INTO billing_usageevent (prediction_id, account_id, api_key_id, version_id,
            creator_id, price_id, mode, units, gross_nanos, creator_nanos, transfer_id,
            occurred_at, metered, position, tag)
        SELECT b.id, b.account_id, b.api_key_id, b.version_id, b.creator_id, b.price_id, b.mode,
            b.units, b.gross_nanos, b.creator_nanos, d.transfer_id, b.occurred_at, b.metered,
            b.position, coalesce(b.tag, '')
        FROM booked b LEFT JOIN debt d ON b.gross_nanos > 0
            AND d.wallet_id = b.wallet_id AND d.payable_id = b.payable_id
    ), new_share AS (
        INSERT INTO billing_royaltyshare (prediction_id, royalty_id, amount_nanos)
        SELECT y.prediction_id, y.royalty_id, y.amount_nanos FROM royalty y
    ), posted AS (
        UPDATE billing_hold h SET posted_nanos = h.posted_nanos + b.gross_nanos,
            state = CASE WHEN h.posted_nanos + b.gross_nanos = h.amount_nanos THEN 'posted'
                ELSE h.state END
        FROM (SELECT hold_id, sum(gross_nanos)::bigint AS gross_nanos FROM booked
              WHERE gross_nanos > 0 GROUP BY 1) b
        WHERE h.id = b.hold_id
    ), moved AS (
        UPDATE billing_ledgeraccount a SET posted_nanos = a.posted_nanos + c.amount_nanos,
            held_nanos = a.held_nanos + CASE WHEN a.kind IN ('wallet', 'receivable')
                THEN c.amount_nanos ELSE 0 END
        FROM (SELECT account_id, sum(amount_nanos)::bigint AS amount_nanos FROM side
              GROUP BY 1) c
        WHERE a.id = c.account_id
    ), spend AS (
        SELECT b.api_key_id, b.day, sum(b.gross_nanos)::bigint AS spent_nanos,
            -coalesce(sum(b.gross_nanos) FILTER (WHERE b.is_budgeted), 0)::bigint AS held_nanos
        FROM booked b WHERE b.api_key_id IS NOT NULL AND b.gross_nanos > 0 GROUP BY 1, 2
    )
    SELECT o.ids, o.outcomes, o.gross, k.keys, k.days, k.spent, k.held
        INTO v_ids, v_outcomes, v_gross, v_keys, v_days, v_spent, v_held
        FROM (SELECT array_agg(i.id) AS ids, array_agg(i.outcome) AS outcomes, array_agg(
                  CASE WHEN i.outcome = 'settled' AND NOT i.is_plain
                      THEN (SELECT b.gross_nanos FROM booked b WHERE b.id = i.id)
                      ELSE coalesce(i.booked_nanos, i.gross_nanos) END) AS gross
              FROM item i) o,
            (SELECT array_agg(s.api_key_id) AS keys, array_agg(s.day) AS days,
                array_agg(s.spent_nanos) AS spent, array_agg(s.held_nanos) AS held
             FROM spend s) k;
    IF 'foreign_price' = ANY (v_outcomes) THEN
        RAISE EXCEPTION 'a usage event has a price of its own model' USING ERRCODE = 'SR422';
    END IF;
    IF 'unpriced' = ANY (v_outcomes) THEN
        RAISE EXCEPTION 'a usage event costs what its price says' USING ERRCODE = 'SR422';
    END IF;
    IF v_keys IS NOT NULL THEN
        PERFORM billing_note_spend(v_keys, v_days, v_spent, v_held);
    END IF;
    RETURN QUERY SELECT * FROM unnest(v_ids, v_outcomes, v_gross);
END $$;
