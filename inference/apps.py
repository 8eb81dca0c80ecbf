from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"
    verbose_name = "Inference"

    def ready(self) -> None:
        """Have reviewers asked about versions that new keys signed, and say what would stop."""
        from inference.services.closing import CLOSER
        from inference.services.consequence import foretell_serving
        from inference.services.own_data import EXPORTERS
        from inference.services.signing_key import SigningKeyDoubter
        from marketplace.services.closing import register_closer
        from marketplace.services.consequence import register_foreteller
        from marketplace.services.doubt import register_doubter
        from marketplace.services.exporter import register_exporters

        register_doubter(SigningKeyDoubter())
        register_foreteller(foretell_serving)
        register_exporters(*EXPORTERS)
        register_closer(CLOSER)
