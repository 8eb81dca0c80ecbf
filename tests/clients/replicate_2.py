"""What a consumer does with the second version of Replicate's client; run in a process of its own.

Both versions are named `replicate`, so they cannot be in one environment. Called with the base
URL and the key; prints what it got as JSON.
"""

from __future__ import annotations

import json
import sys

import replicate
from replicate import Replicate

X = [1, 2.5, 3, 4]


def main() -> None:
    """Run, create, read and cancel, and be refused."""
    url, key = sys.argv[1:]
    # Only the address and the key are ours.
    client = Replicate(base_url=f"{url}/v1", bearer_token=key)
    made = client.models.predictions.create(
        model_owner="maker", model_name="echo", input={"x": X, "note": "by model"}
    )
    pinned = client.predictions.create(version="ab" * 32, input={"x": X}, prefer="wait=5")
    try:
        client.predictions.create(version="ab" * 32, input={"x": "four"})
        refusal = None
    except replicate.APIStatusError as error:
        refusal = error.status_code
    found = {
        "version": replicate.__version__,
        "run": client.run("maker/echo", input={"x": X, "note": "hi"}),
        "created": [made.status, made.output["echo"], made.id],
        "pinned": [pinned.status, pinned.output["kind"]["label"]],
        "got": client.predictions.get(prediction_id=made.id).id,
        "canceled": client.predictions.cancel(prediction_id=made.id).status,
        "listed": len(list(client.predictions.list())),
        "model": client.models.get(model_owner="maker", model_name="echo").name,
        "account": client.account.get().username,
        "hardware": [one.sku for one in client.hardware.list()],
        "refusal": refusal,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
