from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.sweep_nodes")
def sweep_nodes() -> None:
    """Notice lost nodes, and bring what runs in line with what should run."""
    from inference.services import node, wake

    node.note_departures()
    wake.sweep()
