-- Tell the gateways at once what they must look up again. The payload is small and names
-- no secret; a gateway that missed it (reconnecting) drops its whole cache.
CREATE OR REPLACE FUNCTION marketplace_notify_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('strongroom_changes', json_build_object(
        'table', TG_TABLE_NAME,
        'id', CASE WHEN TG_OP = 'DELETE' THEN OLD.id::text ELSE NEW.id::text END)::text);
    RETURN NULL;
END $$;

CREATE TRIGGER marketplace_apikey_notify
    AFTER DELETE OR UPDATE OF revoked_at, expires_at, scopes, mode ON marketplace_apikey
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();
CREATE TRIGGER marketplace_account_notify AFTER UPDATE ON marketplace_account
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();
CREATE TRIGGER marketplace_aimodel_notify AFTER INSERT OR DELETE OR UPDATE ON marketplace_aimodel
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();
CREATE TRIGGER marketplace_modelversion_notify
    AFTER UPDATE OF state, interface ON marketplace_modelversion
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();
CREATE TRIGGER marketplace_channel_notify AFTER INSERT OR DELETE OR UPDATE ON marketplace_channel
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();

CREATE OR REPLACE FUNCTION marketplace_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'SR423';
END $$;
CREATE TRIGGER marketplace_auditevent_append_only BEFORE UPDATE OR DELETE ON marketplace_auditevent
    FOR EACH ROW EXECUTE FUNCTION marketplace_refuse_change();
CREATE TRIGGER marketplace_review_append_only BEFORE UPDATE OR DELETE ON marketplace_review
    FOR EACH ROW EXECUTE FUNCTION marketplace_refuse_change();
