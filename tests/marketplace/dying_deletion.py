"""A worker that deletes an account, as a process of its own, which dies with SIGKILL at a step."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any
from uuid import UUID


def main(deletion_id: str, name: str, when: str) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "marketplace.settings"
    import django

    django.setup()
    from marketplace.services import account_deletion, closing

    kept = closing.find_step

    def find_step(wanted: str) -> Any:
        step = kept(wanted)
        if wanted != name:
            return step

        def call(deletion: Any) -> str:
            if when == "after":
                step(deletion)
            os.kill(os.getpid(), signal.SIGKILL)
            return ""

        return call

    closing.find_step = find_step
    account_deletion.advance(deletion_id=UUID(deletion_id))


if __name__ == "__main__":
    main(*sys.argv[1:])
