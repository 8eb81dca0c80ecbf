"""`python -m inference.node`."""

import sys

from inference.node.main import main

sys.exit(main())
