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

-- See price_guard.sql.
CREATE TRIGGER billing_price_immutable BEFORE UPDATE OR DELETE ON billing_price
    FOR EACH ROW EXECUTE FUNCTION billing_price_guard();
CREATE TRIGGER billing_price_notify AFTER INSERT OR UPDATE ON billing_price
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();
