-- What the catalogue finds a model by, in step with the rows that it comes from, whoever
-- writes them. Names are written with dots, hyphens and underscores; for a parser of texts
-- such a name is a host or a file, so they become spaces first.
--
-- Words are kept twice: by their stem ("running" is found by "run") and, except for the
-- card's, as they stand, since a word that is typed half way has no stem.
CREATE OR REPLACE FUNCTION marketplace_refresh_entries(ids uuid[]) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO marketplace_catalogueentry AS entry (
        model_id, words, label, listing_sha256, published_at, p50_ms, rows_per_s, hardware
    )
    SELECT model.id,
        setweight(to_tsvector('english', texts.head), 'A')
            || setweight(to_tsvector('simple', texts.head), 'A')
            || setweight(to_tsvector('english', texts.about), 'B')
            || setweight(to_tsvector('simple', texts.about), 'B')
            || setweight(to_tsvector('simple', texts.owner), 'C')
            || setweight(to_tsvector('english', model.card), 'D'),
        left(lower(texts.head || ' ' || texts.owner), 320),
        encode(sha256(convert_to(concat_ws(E'\x1f', model.title, model.summary, model.task,
            model.industry, model.card), 'UTF8')), 'hex'),
        prod.moved_at,
        measured.p50_ms,
        measured.rows_per_s,
        coalesce(measured.hardware, '')
    FROM marketplace_aimodel AS model
    JOIN marketplace_account AS account ON account.id = model.account_id
    CROSS JOIN LATERAL (SELECT
        translate(model.name, '._-', '   ') || ' ' || model.title AS head,
        model.summary || ' ' || translate(model.task, '-', ' ') || ' '
            || translate(model.industry, '-', ' ') AS about,
        account.name || ' ' || account.slug || ' ' || translate(account.slug, '-', ' ') AS owner
    ) AS texts
    LEFT JOIN marketplace_channel AS prod ON prod.model_id = model.id AND prod.name = 'prod'
    LEFT JOIN marketplace_modelversion AS version ON version.id = prod.version_id
    LEFT JOIN LATERAL (SELECT
        (SELECT min((p50 #>> '{}')::float8) FROM jsonb_path_query(version.certificate,
            '$.benchmark.points[*] ? (@.batch == 1).p50_ms ? (@.type() == "number")') AS p50
        ) AS p50_ms,
        (SELECT max((rate #>> '{}')::float8) FROM jsonb_path_query(version.certificate,
            '$.benchmark.points[*].rows_per_s ? (@.type() == "number")') AS rate
        ) AS rows_per_s,
        left(coalesce(
            jsonb_path_query_first(version.certificate,
                '$.benchmark.gpu ? (@.type() == "string")') #>> '{}',
            CASE WHEN jsonb_typeof(version.certificate -> 'benchmark') = 'object' THEN 'CPU' END
        ), 80) AS hardware
    ) AS measured ON true
    WHERE model.id = ANY (ids)
    ORDER BY model.id
    ON CONFLICT (model_id) DO UPDATE SET
        words = excluded.words, label = excluded.label,
        listing_sha256 = excluded.listing_sha256, published_at = excluded.published_at,
        p50_ms = excluded.p50_ms, rows_per_s = excluded.rows_per_s, hardware = excluded.hardware
$$;

CREATE OR REPLACE FUNCTION marketplace_entry_of_model() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM marketplace_refresh_entries(ARRAY[NEW.id]);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION marketplace_entry_of_channel() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM marketplace_refresh_entries(
        ARRAY[CASE WHEN TG_OP = 'DELETE' THEN OLD.model_id ELSE NEW.model_id END]);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION marketplace_entry_of_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM marketplace_refresh_entries(ARRAY[NEW.model_id]);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION marketplace_entries_of_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM marketplace_refresh_entries(
        ARRAY(SELECT id FROM marketplace_aimodel WHERE account_id = NEW.id));
    RETURN NULL;
END $$;

-- What a search looks for. Of each word its stem or itself; the last may be typed half way.
-- Words that stand in every text ("the") are not looked for, unless one is all there is.
CREATE OR REPLACE FUNCTION marketplace_search_query(
    asked text[], OUT any_word tsquery, OUT all_words tsquery
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    word text;
    place integer := 0;
    wanted tsquery;
    stem tsquery;
BEGIN
    any_word := ''::tsquery;
    all_words := ''::tsquery;
    FOREACH word IN ARRAY asked LOOP
        place := place + 1;
        stem := plainto_tsquery('english', word);
        CONTINUE WHEN numnode(stem) = 0 AND cardinality(asked) > 1;
        IF place = cardinality(asked) THEN
            wanted := stem || to_tsquery('simple', quote_literal(word) || ':*');
        ELSE
            wanted := stem || plainto_tsquery('simple', word);
        END IF;
        any_word := any_word || wanted;
        all_words := all_words && wanted;
    END LOOP;
END $$;

CREATE TRIGGER marketplace_aimodel_entry
    AFTER INSERT OR UPDATE OF name, title, summary, card, task, industry, account_id
    ON marketplace_aimodel FOR EACH ROW EXECUTE FUNCTION marketplace_entry_of_model();
CREATE TRIGGER marketplace_channel_entry AFTER INSERT OR DELETE OR UPDATE ON marketplace_channel
    FOR EACH ROW EXECUTE FUNCTION marketplace_entry_of_channel();
CREATE TRIGGER marketplace_modelversion_entry AFTER UPDATE OF certificate ON marketplace_modelversion
    FOR EACH ROW EXECUTE FUNCTION marketplace_entry_of_version();
CREATE TRIGGER marketplace_account_entry AFTER UPDATE OF name, slug ON marketplace_account
    FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name OR OLD.slug IS DISTINCT FROM NEW.slug)
    EXECUTE FUNCTION marketplace_entries_of_account();

SELECT marketplace_refresh_entries(ARRAY(SELECT id FROM marketplace_aimodel));
