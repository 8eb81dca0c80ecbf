from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.roll_up_metrics")
def roll_up_metrics() -> None:
    """Read the counters, bring the roll-ups up to date, and see which rules are broken."""
    from inference.services import alert, metric

    metric.sample_nodes()
    metric.read_gateways()
    metric.roll_up()
    alert.evaluate_rules()
    alert.send_alerts()
