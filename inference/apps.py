from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"
    verbose_name = "Inference"

    def ready(self) -> None:
        """Have reviewers asked about new keys, say what would stop, and how serving is."""
        from inference.services.consequence import foretell_serving
        from inference.services.signing_key import SigningKeyDoubter
        from inference.services.status import probe_gateway, probe_onboarding, probe_serving
        from marketplace.models import Part
        from marketplace.services.consequence import register_foreteller
        from marketplace.services.doubt import register_doubter
        from marketplace.services.status import register_probe

        register_doubter(SigningKeyDoubter())
        register_foreteller(foretell_serving)
        register_probe(Part.GATEWAY, probe_gateway)
        register_probe(Part.SERVING, probe_serving)
        register_probe(Part.ONBOARDING, probe_onboarding)
