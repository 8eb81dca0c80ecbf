-- Which transaction wrote an event: the events of all that are over can be read in an order
-- that no later commit changes. The database fills it in; nothing else writes it.
ALTER TABLE billing_usageevent ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX billing_usage_xid ON billing_usageevent (xid, prediction_id);

CREATE TRIGGER billing_receiptkey_append_only BEFORE UPDATE OR DELETE ON billing_receiptkey
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_receiptbatch_append_only BEFORE UPDATE OR DELETE ON billing_receiptbatch
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_receiptleaf_append_only BEFORE UPDATE OR DELETE ON billing_receiptleaf
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
