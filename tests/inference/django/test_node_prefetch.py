"""What a node may fetch ahead: a short list, ciphertext alone, and never more than it is told."""

from __future__ import annotations

from datetime import timedelta

import pytest

from inference.models import Deployment, Node, Replica, UploadPart
from marketplace.core.clock import utc_now
from marketplace.models import ModelVersion
from tests.inference.django.scripted_node import ScriptedNode
from tests.inference.django.test_node import assert_refused, make_node, make_replica

FILES = {"model.onnx": b"weights" * 1000, "labels.txt": b"zero\none\n"}


@pytest.fixture(autouse=True)
def _allowed(settings) -> None:
    settings.PREFETCH_VERSIONS = 8


@pytest.fixture
def node(db) -> ScriptedNode:
    return make_node("node-1")


@pytest.fixture
def version(creator, model) -> ModelVersion:
    return ModelVersion.objects.get(pk=creator.push("acme/digits", FILES)["id"])


def deploy(version, **fields) -> Deployment:
    return Deployment.objects.create(version=version, **fields)


def names(node) -> list[str]:
    answer = node.call("GET", "prefetch")
    assert answer.status_code == 200, answer.content
    return [one["name"] for one in answer.json()["versions"]]


def paths(version) -> list[str]:
    return [f"artifacts/{version.pk}", f"artifacts/{version.pk}/files/0/parts/0"]


def test_a_deployed_version_may_be_fetched_ahead(version, node, store):
    assert names(node) == []
    for path in paths(version):
        assert_refused(node.call("GET", path), 404, "not_found")

    deploy(version)

    answer = node.call("GET", "prefetch").json()
    assert answer == {
        "versions": [
            {
                "version_id": str(version.pk),
                "name": str(version),
                "size_bytes": version.artifact.size_bytes,
            }
        ]
    }
    for path in paths(version):
        assert node.call("GET", path).status_code == 200


def test_without_a_word_of_the_platform_nothing_may(version, node, settings):
    """As delivered: a node reaches what is assigned to it and nothing else."""
    deploy(version)
    settings.PREFETCH_VERSIONS = 0

    assert names(node) == []
    for path in paths(version):
        assert_refused(node.call("GET", path), 404, "not_found")


def test_what_is_stopped_may_not(version, node):
    deploy(version, stopped_at=utc_now())

    assert names(node) == []
    for path in paths(version):
        assert_refused(node.call("GET", path), 404, "not_found")


def test_what_the_node_has_is_not_named_but_still_given(version, node):
    deploy(version)
    make_replica(node, version)

    assert names(node) == []
    for path in paths(version):
        assert node.call("GET", path).status_code == 200


def test_what_was_wanted_last_comes_first_and_the_list_is_short(
    version, creator, model, node, settings
):
    settings.PREFETCH_VERSIONS = 2
    others = [
        ModelVersion.objects.get(pk=creator.push("acme/digits", FILES)["id"]) for _ in range(4)
    ]
    now = utc_now()
    for hours, one in enumerate([version, *others]):
        deploy(one, last_wanted_at=now - timedelta(hours=10 - hours))

    assert names(node) == [str(others[3]), str(others[2])]
    # Some to spare, for a list that is older than the last call; beyond that nothing.
    assert node.call("GET", paths(others[0])[0]).status_code == 200
    for path in paths(version):
        assert_refused(node.call("GET", path), 404, "not_found")


def test_a_revoked_node_is_told_nothing(version, node):
    deploy(version)
    Node.objects.update(revoked_at=utc_now())

    for path in ["prefetch", *paths(version)]:
        assert node.call("GET", path).status_code == 401


def test_it_is_no_replica_for_which_a_key_could_be_asked(version, node):
    deploy(version)

    names(node)
    node.call("GET", paths(version)[1])

    assert not Replica.objects.exists()


@pytest.mark.parametrize(
    ("asked", "status", "first"), [("bytes=10-", 206, 10), ("bytes=0-", 200, 0), ("x", 200, 0)]
)
def test_a_part_is_gone_on_with_where_it_was_cut(version, node, store, asked, status, first):
    make_replica(node, version)
    row = UploadPart.objects.get(file_index=0)
    whole = (store / row.storage_name).read_bytes()

    answer = node.call("GET", paths(version)[1], headers={"Range": asked})

    assert answer.status_code == status
    assert b"".join(answer.streaming_content) == whole[first:]
    assert answer["Content-Length"] == str(len(whole) - first)
    if status == 206:
        assert answer["Content-Range"] == f"bytes 10-{len(whole) - 1}/{len(whole)}"


def test_a_cut_behind_the_end_is_refused(version, node):
    make_replica(node, version)

    answer = node.call("GET", paths(version)[1], headers={"Range": "bytes=999999-"})

    assert_refused(answer, 416, "range_not_satisfiable")


def test_the_names_in_the_store_are_told_for_a_mirror(version, node, store):
    make_replica(node, version)

    found = node.call("GET", paths(version)[0]).json()["objects"]

    assert sorted(found) == ["0-0", "1-0"]
    for name in found.values():
        assert (store / name).is_file()


def test_damage_is_shown_to_who_runs_the_platform(node, admin_client):
    def look() -> str:
        return admin_client.get("/platform/fleet").content.decode()

    for cache, shown in [({"damage": 3}, True), ({"damage": 0}, False), ("x", False), ({}, False)]:
        Node.objects.update(info={"cache": cache})
        assert (">damage<" in look()) is shown
