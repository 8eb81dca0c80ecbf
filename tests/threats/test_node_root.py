"""Root on a node reads everything that is in its memory; only the machine itself can object.

What the platform can do is to give no key to a machine that has not shown what it is. Nothing
here, and nothing in this product, keeps root on a node from reading what was given to it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.models import Lease, Replica
from tests.e2e import searching
from tests.e2e.searching import Canary
from tests.inference.keybroker.conftest import Broker, EnrolledNode, SealedVersion
from tests.inference.keybroker.test_release_log import as_insider
from tests.inference.serving.test_secrecy import canary, served  # noqa: F401 - the fixtures
from tests.onlookers import IS_ROOT
from tests.threats.conftest import StartCareless, ask, logged, refusal

AFTER = '"publish_channel"'


def demand(evidence: str) -> None:
    """As if the creator had signed the manifest with this demand."""
    as_insider(
        "inference_artifact",
        "UPDATE inference_artifact SET manifest = replace(manifest, %s, %s)",
        AFTER,
        f'"policy":{{"evidence":"{evidence}"}},{AFTER}',
    )


@pytest.mark.django_db(transaction=True)
def test_a_machine_that_shows_nothing_gets_no_key_of_a_creator_who_demands_evidence(
    broker: Broker,
    start_careless: StartCareless,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
) -> None:
    demand("tpm")

    answer = ask(broker, node.request(broker, replica))

    assert refusal(answer) == (403, "evidence_insufficient")
    assert logged() == [("refused", "evidence_insufficient")]
    assert not Lease.objects.exists()
    # Nor does it help to name what one cannot show.
    named = {"evidence": {"type": "tpm"}}
    assert ask(broker, node.request(broker, replica, **named)).status_code == 403
    assert not Lease.objects.exists()
    # The control: where the demand is not looked at, root has the key.
    careless = start_careless("policy")
    assert ask(careless, node.request(careless, replica)).status_code == 200


def test_root_reads_what_a_machine_without_evidence_was_given(served, canary) -> None:  # noqa: F811
    """What remains, shown: the weights are in the clear in the serving process' memory."""
    _, pid = served
    if not IS_ROOT:
        with pytest.raises(PermissionError):
            Path(f"/proc/{pid}/maps").read_text()
        return

    # A row of the weights: the runtime lays out its rows anew.
    assert Canary([canary[:16]]).is_in_stream(searching.read_memory(pid))
