-- Money that people move, by four eyes where it is much; and predictions that are given back.

-- What an adjustment says never changes; its state ends once, and what was posted under it is
-- what it says.
CREATE OR REPLACE FUNCTION billing_adjustment_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.state <> 'pending' OR
        (NEW.id, NEW.kind, NEW.source_id, NEW.target_id, NEW.amount_nanos, NEW.reason,
            NEW.reference, NEW.invoice_id, NEW.needs_two, NEW.created_by_id, NEW.created_at)
        IS DISTINCT FROM
        (OLD.id, OLD.kind, OLD.source_id, OLD.target_id, OLD.amount_nanos, OLD.reason,
            OLD.reference, OLD.invoice_id, OLD.needs_two, OLD.created_by_id, OLD.created_at)
    THEN
        RAISE EXCEPTION 'an adjustment is decided once and says the same for ever'
            USING ERRCODE = 'SR423';
    END IF;
    IF NEW.state = 'posted' AND NOT EXISTS (
        SELECT 1 FROM billing_transfer t
        JOIN billing_transferentry s ON s.transfer_id = t.id
            AND s.ledger_account_id = NEW.source_id AND s.amount_nanos = -NEW.amount_nanos
        JOIN billing_transferentry g ON g.transfer_id = t.id
            AND g.ledger_account_id = NEW.target_id AND g.amount_nanos = NEW.amount_nanos
        WHERE t.id = NEW.transfer_id AND t.kind = NEW.kind
            AND t.idempotency_key = 'adjustment:' || NEW.id
    ) THEN
        RAISE EXCEPTION 'an adjustment is posted as it was approved' USING ERRCODE = 'SR422';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER billing_adjustment_guard BEFORE UPDATE OR DELETE ON billing_adjustment
    FOR EACH ROW EXECUTE FUNCTION billing_adjustment_guard();

-- Nobody starts with an adjustment that is decided already.
CREATE OR REPLACE FUNCTION billing_adjustment_begin() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> 'pending' THEN
        RAISE EXCEPTION 'an adjustment begins as a proposal' USING ERRCODE = 'SR422';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER billing_adjustment_begin BEFORE INSERT ON billing_adjustment
    FOR EACH ROW EXECUTE FUNCTION billing_adjustment_begin();

CREATE OR REPLACE TRIGGER billing_usagereversal_append_only
    BEFORE UPDATE OR DELETE ON billing_usagereversal
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();


-- Give back what a prediction cost, in part or whole, at most once. Who earned by it, the
-- creator and those whom royalties go to, gives its part back: out of its reserve first, and what
-- the reserve does not hold out of its payable, which may go below zero: later earnings make up
-- for it. All accounts are locked before a reserve is read, in the order of their ids, as
-- everywhere.
-- One row: what they give of it together; none where it was given back before.
-- SR404: not a prediction that was charged. SR422: more than it cost, or nothing.
CREATE OR REPLACE FUNCTION billing_reverse_usage(
    p_id uuid, p_prediction uuid, p_gross_nanos bigint
) RETURNS TABLE (creator_nanos bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_event billing_usageevent;
    v_payer uuid;
    v_platform uuid;
    v_creator bigint;
    v_holders uuid[];
    v_parts bigint[];
    v_reserves uuid[];
    v_payables uuid[];
    v_reserved bigint;
    v_entries jsonb;
    v_key text := 'usage_reversal:' || p_prediction;
BEGIN
    SELECT * INTO v_event FROM billing_usageevent u
        WHERE u.prediction_id = p_prediction AND u.gross_nanos > 0;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such charge' USING ERRCODE = 'SR404';
    END IF;
    IF p_gross_nanos IS NULL OR p_gross_nanos <= 0 OR p_gross_nanos > v_event.gross_nanos THEN
        RAISE EXCEPTION 'a part of what was charged' USING ERRCODE = 'SR422';
    END IF;
    SELECT a.id INTO STRICT v_payer FROM billing_transferentry e
        JOIN billing_ledgeraccount a ON a.id = e.ledger_account_id
        WHERE e.transfer_id = v_event.transfer_id AND a.kind IN ('wallet', 'receivable');
    -- Rounded down, as the shares themselves; in whole it is exactly the shares.
    v_creator := div(v_event.creator_nanos::numeric * p_gross_nanos, v_event.gross_nanos)::bigint;
    WITH royalty AS (
        SELECT r.beneficiary_id AS holder_id,
            div(s.amount_nanos::numeric * p_gross_nanos, v_event.gross_nanos)::bigint AS nanos
        FROM billing_royaltyshare s JOIN billing_royalty r ON r.id = s.royalty_id
        WHERE s.prediction_id = p_prediction
    ), part AS (
        SELECT holder_id, sum(nanos)::bigint AS nanos FROM (
            SELECT y.holder_id, y.nanos FROM royalty y
            UNION ALL
            SELECT v_event.creator_id, v_creator - coalesce((SELECT sum(nanos) FROM royalty), 0)
        ) p GROUP BY 1
    )
    SELECT array_agg(holder_id ORDER BY holder_id), array_agg(nanos ORDER BY holder_id)
        INTO v_holders, v_parts FROM part;
    SELECT array_agg(billing_account(h, 'creator_reserve') ORDER BY n),
            array_agg(billing_account(h, 'creator_payable') ORDER BY n)
        INTO v_reserves, v_payables FROM unnest(v_holders) WITH ORDINALITY AS x(h, n);
    v_platform := billing_account(NULL, 'platform_revenue');
    PERFORM 1 FROM billing_ledgeraccount a
        WHERE a.id = ANY (v_reserves || v_payables || v_payer || v_platform)
        ORDER BY a.id FOR NO KEY UPDATE;
    IF EXISTS (SELECT 1 FROM billing_transfer t WHERE t.idempotency_key = v_key) THEN
        RETURN;
    END IF;
    v_entries := jsonb_build_array(jsonb_build_object('account', v_payer, 'amount', p_gross_nanos));
    IF p_gross_nanos > v_creator THEN
        v_entries := v_entries
            || jsonb_build_object('account', v_platform, 'amount', v_creator - p_gross_nanos);
    END IF;
    FOR i IN 1 .. cardinality(v_holders) LOOP
        SELECT least(v_parts[i], greatest(a.posted_nanos, 0)) INTO v_reserved
            FROM billing_ledgeraccount a WHERE a.id = v_reserves[i];
        IF v_reserved > 0 THEN
            v_entries := v_entries
                || jsonb_build_object('account', v_reserves[i], 'amount', -v_reserved);
        END IF;
        IF v_parts[i] > v_reserved THEN
            v_entries := v_entries || jsonb_build_object(
                'account', v_payables[i], 'amount', v_reserved - v_parts[i]);
        END IF;
    END LOOP;
    PERFORM billing_transfer(p_id, 'usage_reversal', v_key, p_prediction::text, v_entries);
    creator_nanos := v_creator;
    RETURN NEXT;
END $$;
