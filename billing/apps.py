from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = "Billing"

    def ready(self) -> None:
        """Tell the marketplace what is kept of an account's money, and who takes it."""
        from billing.services.closing import CLOSER
        from billing.services.own_data import EXPORTERS
        from billing.services.own_metrics import PARTS
        from billing.services.status import probe_billing
        from billing.services.warm_hour import CASHIER
        from marketplace.models import Part
        from marketplace.services.cashier import register_cashier
        from marketplace.services.closing import register_closer
        from marketplace.services.exporter import register_exporters
        from marketplace.services.platform_metrics import register_part
        from marketplace.services.status import register_probe

        register_exporters(*EXPORTERS)
        register_closer(CLOSER)
        for part in PARTS:
            register_part(part)
        register_probe(Part.BILLING, probe_billing)
        register_cashier(CASHIER)
