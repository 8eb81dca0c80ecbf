-- What a prediction costs. The one place that decides it: see sdk/strongroom/rating.py, which
-- says in words what is summed here, and computes the same for whoever checks a receipt.
-- p_rates: {kind: nano-dollars for a million}; p_metered: {kind: units}, of the same kinds;
-- p_tiers: [[from which row of the month on, basis points], ...], in their order.
-- p_position: rows of the month that came before; null: the price counts none.
CREATE OR REPLACE FUNCTION billing_rate(
    p_flat bigint, p_rates jsonb, p_minimum bigint, p_free bigint, p_tiers jsonb,
    p_units bigint, p_metered jsonb, p_position bigint
) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_gross numeric := p_units::numeric * p_flat;
    v_weight numeric := p_units::numeric * 10000;
    v_end bigint := p_position + p_units;
    v_count integer := jsonb_array_length(p_tiers);
    v_from bigint;
    v_until bigint;
    v_units numeric;
    v_kind text;
BEGIN
    IF p_units IS NULL OR p_units <= 0 OR p_units > 1000000000000 OR p_position < 0 THEN
        RAISE EXCEPTION 'a prediction has one row or more' USING ERRCODE = 'SR422';
    END IF;
    IF ARRAY(SELECT k FROM jsonb_object_keys(p_rates) k ORDER BY k)
        <> ARRAY(SELECT k FROM jsonb_object_keys(coalesce(p_metered, '{}')) k ORDER BY k)
    THEN
        RAISE EXCEPTION 'what is metered is what has a rate' USING ERRCODE = 'SR422';
    END IF;
    FOR v_kind IN SELECT k FROM jsonb_object_keys(p_rates) k LOOP
        IF jsonb_typeof(p_metered -> v_kind) <> 'number' THEN
            RAISE EXCEPTION 'a unit is a count' USING ERRCODE = 'SR422';
        END IF;
        v_units := (p_metered ->> v_kind)::numeric;
        IF v_units < 0 OR v_units > 1000000000000 OR v_units <> trunc(v_units)
            OR (v_kind = 'row' AND v_units <> p_units)
        THEN
            RAISE EXCEPTION 'a unit is a count' USING ERRCODE = 'SR422';
        END IF;
        v_gross := v_gross + div(v_units * (p_rates ->> v_kind)::numeric + 999999, 1000000);
    END LOOP;
    IF p_position IS NOT NULL THEN
        v_weight := v_weight - 10000 * greatest(0, least(v_end, p_free) - p_position);
        FOR v_place IN 0 .. v_count - 1 LOOP
            v_from := (p_tiers -> v_place ->> 0)::bigint;
            v_until := coalesce((p_tiers -> (v_place + 1) ->> 0)::bigint, v_end);
            v_weight := v_weight - (10000 - (p_tiers -> v_place ->> 1)::bigint)
                * greatest(0, least(v_end, v_until) - greatest(p_position, v_from));
        END LOOP;
    END IF;
    RETURN CASE WHEN v_weight = 0 THEN 0 ELSE greatest(p_minimum,
        div(v_gross * v_weight + p_units * 10000 - 1, p_units * 10000)) END;
END $$;


-- The same for who checks what was booked: null where it cannot be rated at all.
CREATE OR REPLACE FUNCTION billing_rate_again(
    p_flat bigint, p_rates jsonb, p_minimum bigint, p_free bigint, p_tiers jsonb,
    p_units bigint, p_metered jsonb, p_position bigint
) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN billing_rate(p_flat, p_rates, p_minimum, p_free, p_tiers, p_units, p_metered,
        p_position);
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;


-- What is charged of a price that meters or counts, out of what was reserved for it: no more
-- than that, and nothing where nothing was.
CREATE OR REPLACE FUNCTION billing_charge(
    p_price uuid, p_units bigint, p_metered jsonb, p_position bigint, p_most bigint
) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_nanos bigint;
BEGIN
    SELECT billing_rate(p.nanos_per_prediction, p.rates, p.minimum_nanos, p.free_units, p.tiers,
            p_units, p_metered, p_position)
        INTO STRICT v_nanos FROM billing_price p WHERE p.id = p_price;
    IF p_most = 0 AND v_nanos > 0 THEN
        -- It was taken for one of the free ones.
        RAISE EXCEPTION 'insufficient_credit' USING ERRCODE = 'SR402';
    END IF;
    IF v_nanos > p_most THEN
        RAISE EXCEPTION 'a usage event costs what its price says' USING ERRCODE = 'SR422';
    END IF;
    RETURN v_nanos;
END $$;
