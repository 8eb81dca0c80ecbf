"""Compute all receipts anew: a line for each wrong batch, and a non-zero exit if there is one."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from billing.models import ReceiptBatch
from billing.selectors.receipt import find_broken_batches


class Command(BaseCommand):
    help = "Compute every batch of receipts anew from its charges; exits 1 if one is wrong."

    def handle(self, *args: Any, **options: Any) -> None:
        is_broken = False
        for seq, fault in find_broken_batches():
            is_broken = True
            self.stdout.write(self.style.ERROR(f"BROKEN batch {seq}: {fault}"))
        if is_broken:
            raise SystemExit(1)
        self.stdout.write(f"ok     {ReceiptBatch.objects.count()} batches are as they were sealed")
