-- What was published stays as it was: an update says what is known by then.
CREATE TRIGGER marketplace_incidentupdate_append_only
    BEFORE UPDATE OR DELETE ON marketplace_incidentupdate
    FOR EACH ROW EXECUTE FUNCTION marketplace_refuse_change();
CREATE TRIGGER marketplace_incident_append_only
    BEFORE DELETE OR UPDATE OF id, title, impact, parts, planned_from, planned_until, created_at
    ON marketplace_incident
    FOR EACH ROW EXECUTE FUNCTION marketplace_refuse_change();
-- What is over does not begin again.
CREATE TRIGGER marketplace_incident_over BEFORE UPDATE ON marketplace_incident
    FOR EACH ROW WHEN (OLD.resolved_at IS NOT NULL)
    EXECUTE FUNCTION marketplace_refuse_change();
