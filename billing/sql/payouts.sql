-- Lock ledger accounts in the order in which everybody does, until the end of the transaction:
-- what the caller reads of them afterwards is not changed meanwhile. Returns how many there are.
CREATE OR REPLACE FUNCTION billing_lock(p_accounts uuid[]) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT count(*)::integer FROM (
        SELECT 1 FROM billing_ledgeraccount a WHERE a.id = ANY (p_accounts)
        ORDER BY a.id FOR NO KEY UPDATE
    ) locked
$$;

-- Releases are never changed; of payouts only what becomes of them, until it is certain.
CREATE TRIGGER billing_release_append_only BEFORE UPDATE OR DELETE ON billing_release
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();

CREATE OR REPLACE FUNCTION billing_payout_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.state IN ('paid', 'refused') OR
        (NEW.id, NEW.run_id, NEW.creator_id, NEW.amount_cents, NEW.destination)
            IS DISTINCT FROM
            (OLD.id, OLD.run_id, OLD.creator_id, OLD.amount_cents, OLD.destination)
    THEN
        RAISE EXCEPTION 'a payout keeps its amount, and its end is final' USING ERRCODE = 'SR423';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER billing_payoutitem_guard BEFORE UPDATE OR DELETE ON billing_payoutitem
    FOR EACH ROW EXECUTE FUNCTION billing_payout_guard();

CREATE OR REPLACE FUNCTION billing_payout_reversal_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.state IN ('done', 'refused') OR
        (NEW.id, NEW.item_id, NEW.amount_cents, NEW.is_forfeited)
            IS DISTINCT FROM (OLD.id, OLD.item_id, OLD.amount_cents, OLD.is_forfeited)
    THEN
        RAISE EXCEPTION 'what is taken back keeps its amount, and its end is final'
            USING ERRCODE = 'SR423';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER billing_payoutreversal_guard BEFORE UPDATE OR DELETE ON billing_payoutreversal
    FOR EACH ROW EXECUTE FUNCTION billing_payout_reversal_guard();
