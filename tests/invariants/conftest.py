"""What holds in every history of the machines, whatever they look at."""

from tests.billing.conftest import nobody_locks_late  # noqa: F401 - a fixture
