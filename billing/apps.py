from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = "Billing"

    def ready(self) -> None:
        """Say what is kept of an account's money, and what its end means for it."""
        from billing.services.closing import CLOSER
        from billing.services.own_data import EXPORTERS
        from marketplace.services.closing import register_closer
        from marketplace.services.exporter import register_exporters

        register_exporters(*EXPORTERS)
        register_closer(CLOSER)
