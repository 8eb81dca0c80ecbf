-- A key's limits, budgets and lists are told like its end; only its last use is not.
DROP TRIGGER marketplace_apikey_notify ON marketplace_apikey;
CREATE TRIGGER marketplace_apikey_notify
    AFTER DELETE OR UPDATE OF revoked_at, expires_at, scopes, mode, requests_per_minute,
        units_per_minute, concurrency_max, budget_day_nanos, budget_month_nanos,
        budget_total_nanos, allowed_models, allowed_networks ON marketplace_apikey
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();
