"""Compare our books with Stripe's, object by object: one module per kind of object.

Each comparer reads both sides, pairs what belongs together, and explains what does not. None
of them writes: `billing.services.reconcile` keeps what they find.
"""
