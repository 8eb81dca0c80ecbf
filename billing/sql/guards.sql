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
CREATE TRIGGER billing_usageshare_append_only BEFORE UPDATE OR DELETE ON billing_usageshare
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();

-- A transfer's entries come in one statement, so that it can be weighed at once.
CREATE OR REPLACE FUNCTION billing_check_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM billing_transferentry e
        WHERE e.transfer_id IN (SELECT n.transfer_id FROM new_rows n)
        GROUP BY e.transfer_id HAVING sum(e.amount_nanos) <> 0 OR count(*) < 2
    ) THEN
        RAISE EXCEPTION 'the entries of a transfer sum to zero' USING ERRCODE = 'SR422';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER billing_transferentry_balance AFTER INSERT ON billing_transferentry
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION billing_check_balance();

CREATE OR REPLACE FUNCTION billing_check_event_shares() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM new_rows u
        WHERE u.gross_nanos <> coalesce((
            SELECT sum(s.amount_nanos) FROM billing_usageshare s
            WHERE s.usage_event_id = u.prediction_id), 0)
    ) THEN
        RAISE EXCEPTION 'the shares of a usage event add up to its gross' USING ERRCODE = 'SR422';
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION billing_check_share_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM billing_usageevent u
        WHERE u.prediction_id IN (SELECT n.usage_event_id FROM new_rows n)
            AND u.gross_nanos <> (
                SELECT sum(s.amount_nanos) FROM billing_usageshare s
                WHERE s.usage_event_id = u.prediction_id)
    ) THEN
        RAISE EXCEPTION 'the shares of a usage event add up to its gross' USING ERRCODE = 'SR422';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER billing_usageevent_shares AFTER INSERT ON billing_usageevent
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION billing_check_event_shares();
CREATE TRIGGER billing_usageshare_shares AFTER INSERT ON billing_usageshare
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    EXECUTE FUNCTION billing_check_share_event();

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
