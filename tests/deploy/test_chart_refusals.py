"""Values that the chart refuses, each with a message that names the key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.chart import ChartError, render

POOL = {
    "name": "cpu",
    "resources": {
        "requests": {"cpu": "2", "memory": "4Gi"},
        "limits": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "32Gi"},
    },
    "cache": {"kind": "emptyDir", "size": "20Gi"},
}
GPU = {"class": "nvidia-l4", "count": 1}

# The key that the message names, and values on top of the smallest example that are refused.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "no registry": ("registry", {"image": {"registry": None}}),
    "no tag": ("tag", {"image": {"tag": None}}),
    "a tag that moves": ("image.tag", {"image": {"tag": "latest"}}),
    "a digest that is none": ("digests", {"image": {"digests": {"web": "sha256:1"}}}),
    "an unknown key": ("replica", {"web": {"replica": 2}}),
    "an unknown part": ("sidecar", {"sidecar": {}}),
    "a text for a number": ("web.replicas", {"web": {"replicas": "two"}}),
    "no copy of the web": ("web.replicas", {"web": {"replicas": 0}}),
    "no copy of the gateway": ("gateway.replicas", {"gateway": {"replicas": 0}}),
    "two schedules": ("beat", {"beat": {"replicas": 2}}),
    "an open site": ("urls.web", {"urls": {"web": "http://strongroom.example"}}),
    "an open gateway": ("urls.gateway", {"urls": {"gateway": "http://gateway.example"}}),
    "an open key store": (
        "keybroker.kms.vault.url",
        {"keybroker": {"kms": {"vault": {"url": "http://vault.example"}}}},
    ),
    "an open bucket": ("objectStore.endpoint", {"objectStore": {"endpoint": "http://s3.example"}}),
    "a token in plain": (
        "STRONGROOM_KEYBROKER_TOKEN",
        {"web": {"settings": {"STRONGROOM_KEYBROKER_TOKEN": "t" * 40}}},
    ),
    "a database's address in plain": (
        "STRONGROOM_DATABASE_URL",
        {"worker": {"settings": {"STRONGROOM_DATABASE_URL": "postgresql://a:b@c/d"}}},
    ),
    "a join token in plain": (
        "STRONGROOM_NODE_JOIN_TOKEN",
        {"pools": [{**POOL, "settings": {"STRONGROOM_NODE_JOIN_TOKEN": "j" * 40}}]},
    ),
    "a secret among the values": ("token", {"secrets": {"web": {"token": "t" * 40}}}),
    "a task cut off": (
        "worker.terminationGracePeriodSeconds",
        {"worker": {"terminationGracePeriodSeconds": 600}},
    ),
    "a job cut off": (
        "node.terminationGracePeriodSeconds",
        {"node": {"terminationGracePeriodSeconds": 1800}},
    ),
    "a drain shorter than a job": ("node.drainSeconds", {"node": {"drainSeconds": 1799}}),
    "a drain longer than the grace": (
        "node.terminationGracePeriodSeconds",
        {"node": {"drainSeconds": 3600}},
    ),
    "a prediction cut off": (
        "gateway.terminationGracePeriodSeconds",
        {"gateway": {"deadlineSeconds": 120}},
    ),
    "no class of GPU": ("class", {"pools": [{**POOL, "gpu": {"count": 1}}]}),
    "no GPU": ("gpu.count", {"pools": [{**POOL, "gpu": {"class": "nvidia-l4", "count": 0}}]}),
    "a part of a GPU twice": (
        "gpu",
        {
            "pools": [
                {**POOL, "gpu": {**GPU, "migProfile": "1g.5gb", "timeSlicing": {"clients": 2}}}
            ]
        },
    ),
    "no pool": ("pools", {"pools": []}),
    "two pools of one name": ("pools", {"pools": [POOL, POOL]}),
    "a pool that no label can name": ("pools.0.name", {"pools": [{**POOL, "name": "CPU_1"}]}),
    "an empty pool": ("pools.0.replicas", {"pools": [{**POOL, "replicas": 0}]}),
    "a pool without limits": (
        "limits",
        {"pools": [{**POOL, "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]},
    ),
    "a folder of the machine": (
        "pools.0.cache.kind",
        {"pools": [{**POOL, "cache": {"kind": "hostPath", "size": "1Gi"}}]},
    ),
    "a shared cache without a claim": (
        "claim",
        {"pools": [{**POOL, "cache": {"kind": "shared", "size": "1Gi"}}]},
    ),
    "no code that may be given keys": ("loaderDigests", {"keybroker": {"loaderDigests": []}}),
    "nothing said about evidence": ("evidence", {"keybroker": {"evidence": None}}),
    "files of keys for two": (
        "keybroker.replicas",
        {"keybroker": {"replicas": 2, "kms": {"kind": "local", "local": {"claim": "keys"}}}},
    ),
    "files of keys in a pod alone": (
        "keybroker.kms.local.claim",
        {"keybroker": {"kms": {"kind": "local"}}},
    ),
    "everybody as the database": (
        "network.postgres.peers",
        {"network": {"postgres": {"peers": []}}},
    ),
    "a peer that is everybody": (
        "network.redis.peers.0",
        {"network": {"redis": {"peers": [{}]}}},
    ),
    "an autoscaler upside down": (
        "web.autoscaling.minReplicas",
        {"web": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}},
    ),
    "a mount of no bucket": (
        "objectStore.bucket",
        {"weights": {"mirror": "gcsfuse"}, "objectStore": {"bucket": "", "makeBucket": False}},
    ),
    "a mirror nowhere": ("weights.dragonfly.url", {"weights": {"mirror": "dragonfly"}}),
    "one host for two protocols": (
        "ingress.grpc.host",
        {"ingress": {"grpc": {"host": "gateway.strongroom.example"}}},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_would_be_wrong_are_refused(name):
    key, values = REFUSED[name]
    with pytest.raises(ChartError) as refused:
        render("small", values=values)
    assert key in str(refused.value)


# The same keys with values that are good: it is the value that was refused.
ACCEPTED: dict[str, dict[str, Any]] = {
    "bare names of images": {"image": {"registry": ""}},
    "a digest": {"image": {"digests": {"nodeCpu": f"sha256:{'a' * 64}"}}},
    "copies": {"web": {"replicas": 1}, "gateway": {"replicas": 1}},
    "plain settings": {"web": {"settings": {"STRONGROOM_RESERVE_DAYS": 9}}},
    "a Secret of another name": {"secrets": {"web": {"existingSecret": "mine"}}},
    "a longer task": {"worker": {"terminationGracePeriodSeconds": 630}},
    "a longer drain": {"node": {"drainSeconds": 3600, "terminationGracePeriodSeconds": 3660}},
    "a longer prediction": {
        "gateway": {"deadlineSeconds": 120, "terminationGracePeriodSeconds": 165}
    },
    "GPUs": {"pools": [{**POOL, "gpu": GPU}, {**POOL, "name": "two", "gpu": {**GPU, "count": 2}}]},
    "a pool that is as all are": {
        "pools": [{"name": "cpu"}, {"name": "l4", "gpu": {"class": "l4"}}]
    },
    "parts of GPUs": {
        "pools": [
            {**POOL, "gpu": {**GPU, "migProfile": "1g.5gb"}},
            {**POOL, "name": "shared", "gpu": {**GPU, "timeSlicing": {"clients": 4}}},
        ]
    },
    "a shared cache": {
        "pools": [{**POOL, "cache": {"kind": "shared", "size": "1Gi", "claim": "cache"}}]
    },
    "files of keys": {"keybroker": {"kms": {"kind": "local", "local": {"claim": "keys"}}}},
    "a host for gRPC": {"ingress": {"grpc": {"host": "grpc.strongroom.example"}}},
    "an autoscaler": {
        "web": {"autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 2}}
    },
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_values_that_are_good_are_taken(name):
    assert render("small", values=ACCEPTED[name]).of_kind("Deployment")


def test_the_chart_alone_is_refused():
    """Without a word about where images, addresses and keys are there is nothing to render."""
    with pytest.raises(ChartError) as refused:
        render()
    for key in ("registry", "tag", "web is required", "pools", "loaderDigests", "evidence"):
        assert key in str(refused.value)


def test_no_image_comes_from_a_place_that_nobody_chose():
    for container in _containers():
        assert container["image"].split(":")[0].count("/") == 0
    registry = {"image": {"registry": "registry.example/team/"}}
    for container in _containers(registry):
        assert container["image"].startswith("registry.example/team/strongroom-")


def _containers(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    from tests.deploy.chart import containers

    workloads = render("small", values=values).workloads()
    return [container for workload in workloads for container in containers(workload)]
