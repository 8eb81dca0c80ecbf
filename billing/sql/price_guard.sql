-- A price never changes; it ends, and another begins. Only the future of its end is open: an end
-- that was announced may be taken back or put elsewhere before it has come. A price that ends
-- when it begins was withdrawn.
CREATE OR REPLACE FUNCTION billing_price_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- Who made it may leave the platform; the last is computed after this.
    v_free text[] := ARRAY['valid_until', 'mailed_at', 'created_by_id', 'is_plain'];
BEGIN
    IF TG_OP = 'DELETE' OR to_jsonb(NEW) - v_free <> to_jsonb(OLD) - v_free
        OR (NEW.valid_until IS DISTINCT FROM OLD.valid_until
            AND OLD.valid_until <= clock_timestamp())
        OR NEW.valid_until < NEW.valid_from
        OR to_jsonb(NEW) - 'is_plain' = to_jsonb(OLD) - 'is_plain'
    THEN
        RAISE EXCEPTION 'a price can only be ended' USING ERRCODE = 'SR423';
    END IF;
    RETURN NEW;
END $$;
