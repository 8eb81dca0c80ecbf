from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"
    verbose_name = "Inference"

    def ready(self) -> None:
        """Tell the marketplace what it cannot know of versions, deployments and nodes."""
        from inference.services.closing import CLOSER
        from inference.services.consequence import foretell_serving
        from inference.services.own_data import EXPORTERS
        from inference.services.own_metrics import PARTS
        from inference.services.signing_key import SigningKeyDoubter
        from inference.services.status import probe_gateway, probe_onboarding, probe_serving
        from marketplace.models import Part
        from marketplace.services.closing import register_closer
        from marketplace.services.consequence import register_foreteller
        from marketplace.services.doubt import register_doubter
        from marketplace.services.exporter import register_exporters
        from marketplace.services.platform_metrics import register_part
        from marketplace.services.status import register_probe

        register_doubter(SigningKeyDoubter())
        register_foreteller(foretell_serving)
        register_exporters(*EXPORTERS)
        register_closer(CLOSER)
        for part in PARTS:
            register_part(part)
        register_probe(Part.GATEWAY, probe_gateway)
        register_probe(Part.SERVING, probe_serving)
        register_probe(Part.ONBOARDING, probe_onboarding)
