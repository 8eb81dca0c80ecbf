from django.apps import AppConfig


class MarketplaceConfig(AppConfig):
    name = "marketplace"
    verbose_name = "Marketplace"

    def ready(self) -> None:
        # Registers the system checks and the tasks, and tells the tasks their broker.
        import marketplace.celery
        import marketplace.checks
        import marketplace.tasks  # noqa: F401
        from marketplace.models import Part
        from marketplace.services.session import connect
        from marketplace.services.status import probe_site, register_probe

        connect()
        register_probe(Part.SITE, probe_site)
