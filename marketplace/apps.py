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
        from marketplace.services.closing import register_closer
        from marketplace.services.exporter import register_exporters
        from marketplace.services.own_closing import CLOSER
        from marketplace.services.own_data import EXPORTERS
        from marketplace.services.own_metrics import DATABASE, REDIS, VITALS
        from marketplace.services.platform_metrics import register_part
        from marketplace.services.session import connect
        from marketplace.services.status import probe_site, register_probe

        connect()
        register_exporters(*EXPORTERS)
        register_closer(CLOSER)
        for part in (VITALS, DATABASE, REDIS):
            register_part(part)
        register_probe(Part.SITE, probe_site)
