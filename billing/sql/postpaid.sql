-- Credit: what an account may owe before it pays.

-- Set how much an account may owe; null: it pays from its wallet. The floor, which no code can
-- pass, follows at once as far as it can: under what is owed and reserved already it goes later,
-- by the same function, as that is paid and given back. Returns what is owed now.
CREATE OR REPLACE FUNCTION billing_set_credit(p_holder uuid, p_limit_nanos bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_id uuid;
    v_owed bigint;
BEGIN
    IF p_limit_nanos < 0 THEN
        RAISE EXCEPTION 'a credit limit is not below zero' USING ERRCODE = 'SR422';
    END IF;
    v_id := billing_account(p_holder, 'receivable');
    PERFORM 1 FROM billing_ledgeraccount a
        WHERE a.kind IN ('wallet', 'receivable') AND a.holder_id = p_holder
        ORDER BY a.id FOR NO KEY UPDATE;
    UPDATE billing_ledgeraccount a SET credit_limit_nanos = p_limit_nanos,
        min_available_nanos = least(-coalesce(p_limit_nanos, 0), a.posted_nanos - a.held_nanos)
        WHERE a.id = v_id
        RETURNING -a.posted_nanos INTO v_owed;
    RETURN v_owed;
END $$;


-- What was reported, and of which transfers, is never changed; a report is only sent.
CREATE OR REPLACE FUNCTION billing_report_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (NEW.id, NEW.account_id, NEW.hour, NEW.seq, NEW.number, NEW.usage_nanos,
            NEW.reversed_nanos, NEW.returned_nanos, NEW.total_nanos, NEW.credit_nanos,
            NEW.value_micro, NEW.residual_nanos, NEW.predictions, NEW.identifier)
        IS DISTINCT FROM (OLD.id, OLD.account_id, OLD.hour, OLD.seq, OLD.number, OLD.usage_nanos,
            OLD.reversed_nanos, OLD.returned_nanos, OLD.total_nanos, OLD.credit_nanos,
            OLD.value_micro, OLD.residual_nanos, OLD.predictions, OLD.identifier)
    THEN
        RAISE EXCEPTION 'a meter report is never changed: late usage gets another one'
            USING ERRCODE = 'SR423';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER billing_meterreport_immutable BEFORE UPDATE OR DELETE ON billing_meterreport
    FOR EACH ROW EXECUTE FUNCTION billing_report_guard();
CREATE OR REPLACE TRIGGER billing_meteredtransfer_append_only
    BEFORE UPDATE OR DELETE ON billing_meteredtransfer
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();

-- Gateways hear at once that an account's keys are paused, or work again.
CREATE OR REPLACE TRIGGER billing_postpaidterms_notify AFTER UPDATE OF paused_at ON billing_postpaidterms
    FOR EACH ROW WHEN (NEW.paused_at IS DISTINCT FROM OLD.paused_at)
    EXECUTE FUNCTION marketplace_notify_change();
