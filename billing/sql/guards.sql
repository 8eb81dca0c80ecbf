-- What stays true even if the code above it is wrong.

CREATE OR REPLACE FUNCTION billing_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: correct by another row', TG_TABLE_NAME
        USING ERRCODE = 'SR423';
END $$;

CREATE TRIGGER billing_transfer_append_only BEFORE UPDATE OR DELETE ON billing_transfer
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_transferentry_append_only BEFORE UPDATE OR DELETE ON billing_transferentry
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_usageevent_append_only BEFORE UPDATE OR DELETE ON billing_usageevent
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();

CREATE TRIGGER billing_transferentry_balance AFTER INSERT ON billing_transferentry
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION billing_check_balance();

-- A price never changes; it ends, and another begins.
CREATE OR REPLACE FUNCTION billing_price_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.valid_until IS NOT NULL OR NEW.valid_until IS NULL
        OR (NEW.id, NEW.model_id, NEW.nanos_per_prediction, NEW.creator_share_bps, NEW.valid_from)
            IS DISTINCT FROM
            (OLD.id, OLD.model_id, OLD.nanos_per_prediction, OLD.creator_share_bps, OLD.valid_from)
    THEN
        RAISE EXCEPTION 'a price can only be ended' USING ERRCODE = 'SR423';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER billing_price_immutable BEFORE UPDATE OR DELETE ON billing_price
    FOR EACH ROW EXECUTE FUNCTION billing_price_guard();
CREATE TRIGGER billing_price_notify AFTER INSERT OR UPDATE ON billing_price
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();
