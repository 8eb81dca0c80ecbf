-- A part of a price at so many percent, rounded up.
CREATE OR REPLACE FUNCTION billing_scale(p_nanos bigint, p_percent integer) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT div(p_nanos::numeric * p_percent + 99, 100)::bigint $$;


-- The price that lines of batches meet: each part of a price at its `batch_percent`, rounded up to
-- a nano-dollar; free rows and tiers stay as they are. See `scale` in sdk/strongroom/rating.py.
-- It is a row of its own, made when it is first needed, so that bookings, receipts and whoever
-- checks them rate by one row as ever. It ends when it begins: nobody else meets it.
CREATE OR REPLACE FUNCTION billing_batch_price(p_price uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_price billing_price;
    v_id uuid;
BEGIN
    SELECT * INTO STRICT v_price FROM billing_price p WHERE p.id = p_price;
    IF v_price.batch_percent = 100 THEN
        RETURN p_price;
    END IF;
    SELECT p.id INTO v_id FROM billing_price p WHERE p.batch_of_id = p_price;
    IF FOUND THEN
        RETURN v_id;
    END IF;
    INSERT INTO billing_price (id, model_id, account_id, nanos_per_prediction, rates, max_units,
            minimum_nanos, free_units, tiers, creator_share_bps, valid_from, valid_until,
            created_by_id, created_at, batch_percent, batch_of_id)
        VALUES (uuidv7(), v_price.model_id, v_price.account_id,
            billing_scale(v_price.nanos_per_prediction, v_price.batch_percent),
            (SELECT coalesce(jsonb_object_agg(r.key,
                    billing_scale((r.value #>> '{}')::bigint, v_price.batch_percent)), '{}')
                FROM jsonb_each(v_price.rates) r),
            v_price.max_units, billing_scale(v_price.minimum_nanos, v_price.batch_percent),
            v_price.free_units, v_price.tiers, v_price.creator_share_bps, v_price.valid_from,
            v_price.valid_from, v_price.created_by_id, clock_timestamp(), 100, p_price)
        ON CONFLICT (batch_of_id) DO NOTHING RETURNING id INTO v_id;
    IF v_id IS NULL THEN
        -- Somebody else has made it in this moment.
        SELECT p.id INTO STRICT v_id FROM billing_price p WHERE p.batch_of_id = p_price;
    END IF;
    RETURN v_id;
END $$;
