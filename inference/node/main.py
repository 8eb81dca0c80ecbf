"""Run a node.

Run: python -m inference.node
"""

from __future__ import annotations

import faulthandler
import logging
import signal
import sys

from inference.node import log
from inference.node.agent import Node
from inference.node.config import NodeConfig
from inference.node.errors import IdentityError
from marketplace.core.env import SettingError

logger = logging.getLogger("node")


def main() -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    log.configure()
    # The stacks of all threads into the log, for a node that hangs.
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    try:
        node = Node(NodeConfig.from_env())
    except (SettingError, IdentityError) as error:
        log.event(logger, "node.cannot_start", level=logging.ERROR, error=error)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.stop())
    node.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
