-- What stays true of prices even if the code above it is wrong: a price can be rated.
CREATE OR REPLACE FUNCTION billing_check_terms() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_kinds CONSTANT text[] := ARRAY['input_token', 'output_token', 'compute_ms', 'row', 'pixel'];
    v_from bigint := NEW.free_units - 1;
    v_tier jsonb;
    v_pair record;
BEGIN
    FOR v_pair IN
        SELECT key, value, 1000000000000000 AS most FROM jsonb_each(NEW.rates)
        UNION ALL SELECT key, value, 1000000000000 FROM jsonb_each(NEW.max_units)
    LOOP
        IF v_pair.key <> ALL (v_kinds) OR jsonb_typeof(v_pair.value) <> 'number'
            OR (v_pair.value #>> '{}')::numeric NOT BETWEEN 0 AND v_pair.most
            OR (v_pair.value #>> '{}')::numeric % 1 <> 0
        THEN
            RAISE EXCEPTION 'a price cannot be rated: %', v_pair.key USING ERRCODE = 'SR422';
        END IF;
    END LOOP;
    FOR v_tier IN SELECT value FROM jsonb_array_elements(NEW.tiers) LOOP
        IF jsonb_array_length(v_tier) <> 2 OR (v_tier ->> 0)::bigint <= v_from
            OR (v_tier ->> 1)::integer NOT BETWEEN 0 AND 10000
        THEN
            RAISE EXCEPTION 'the tiers of a price are not in order' USING ERRCODE = 'SR422';
        END IF;
        v_from := (v_tier ->> 0)::bigint;
    END LOOP;
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS billing_price_terms ON billing_price;
CREATE TRIGGER billing_price_terms BEFORE INSERT ON billing_price
    FOR EACH ROW EXECUTE FUNCTION billing_check_terms();
