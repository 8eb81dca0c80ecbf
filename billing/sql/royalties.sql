-- A royalty can only be ended, and what it gave stays as it was booked.
CREATE OR REPLACE FUNCTION billing_royalty_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.ended_at IS NOT NULL OR NEW.ended_at IS NULL
        OR (NEW.id, NEW.version_id, NEW.parent_id, NEW.beneficiary_id, NEW.reserve_id, NEW.bps)
            IS DISTINCT FROM
            (OLD.id, OLD.version_id, OLD.parent_id, OLD.beneficiary_id, OLD.reserve_id, OLD.bps)
    THEN
        RAISE EXCEPTION 'a royalty can only be ended' USING ERRCODE = 'SR423';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER billing_royalty_immutable BEFORE UPDATE OR DELETE ON billing_royalty
    FOR EACH ROW EXECUTE FUNCTION billing_royalty_guard();
CREATE TRIGGER billing_royaltyshare_append_only BEFORE UPDATE OR DELETE ON billing_royaltyshare
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();

-- All that a version promises comes out of what its creator earns.
CREATE OR REPLACE FUNCTION billing_check_royalties() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT sum(r.bps) FROM billing_royalty r
        WHERE r.version_id = NEW.version_id AND r.ended_at IS NULL) > 10000
    THEN
        RAISE EXCEPTION 'royalties are more than all there is' USING ERRCODE = 'SR422';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER billing_royalty_sum AFTER INSERT ON billing_royalty
    FOR EACH ROW EXECUTE FUNCTION billing_check_royalties();
