CREATE TRIGGER inference_replica_notify
    AFTER INSERT OR DELETE OR UPDATE OF state, wanted ON inference_replica
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();
CREATE TRIGGER inference_node_notify
    AFTER UPDATE OF triton_http_url, triton_grpc_url, revoked_at, triton_ready ON inference_node
    FOR EACH ROW EXECUTE FUNCTION marketplace_notify_change();

-- What a creator signed and what was released stays as it is.
CREATE TRIGGER inference_artifact_append_only BEFORE UPDATE OR DELETE ON inference_artifact
    FOR EACH ROW EXECUTE FUNCTION marketplace_refuse_change();
CREATE TRIGGER inference_keyrelease_append_only BEFORE UPDATE OR DELETE ON inference_keyrelease
    FOR EACH ROW EXECUTE FUNCTION marketplace_refuse_change();
