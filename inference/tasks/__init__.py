"""Tasks of inference; each fetches nothing and calls one service, so it may run twice."""

from inference.tasks.node import sweep_nodes
from inference.tasks.onboarding import advance_onboarding, sweep_onboarding
from inference.tasks.prediction import forget_predictions
from inference.tasks.upload import expire_uploads

__all__ = [
    "advance_onboarding",
    "expire_uploads",
    "forget_predictions",
    "sweep_nodes",
    "sweep_onboarding",
]
