"""The policies allow what docs/kubernetes.md draws, and nothing else."""

from __future__ import annotations

import copy
import re

import pytest

from tests.deploy import chart
from tests.deploy.chart import ROOT, Object, Rendered, render
from tests.deploy.graph import ANYBODY, Edge, compute_graph, labels_of, peer_key

EXTRA = {"objectStore": {"makeBucket": True}}
GCSFUSE = EXTRA | {"weights": {"mirror": "gcsfuse"}}


def read_drawn_edges() -> set[Edge]:
    """The table of docs/kubernetes.md."""
    text = (ROOT / "docs/kubernetes.md").read_text()
    table = text[text.index("## What may speak to what") : text.index("## Pods")]
    edges = set()
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"[\d, ]+", cells[2]):
            edges |= {
                Edge(caller.strip(), cells[1], int(port))
                for caller in cells[0].split(",")
                for port in cells[2].split(",")
            }
    return edges


def read_outside(rendered_values: dict[str, list[Object]]) -> dict[str, str]:
    return {peer_key(peer): name for name, peers in rendered_values.items() for peer in peers}


def make_graph(rendered: Rendered, policies: list[Object] | None = None) -> set[Edge]:
    found = rendered.of_kind("NetworkPolicy") if policies is None else policies
    return compute_graph(found, labels_of(rendered.workloads()), OUTSIDE)


# As the values of the examples name them; each has a place of its own, so that names differ.
PLACES = {
    "postgres": "10.20.0.3/32",
    "redis": "10.20.0.4/32",
    "keyStore": "10.20.0.8/32",
    "objectStore": "10.20.0.9/32",
    "mail": "10.20.0.10/32",
    "collector": "10.20.0.11/32",
    "mirror": "10.20.0.12/32",
    "dns": "10.20.0.13/32",
    "metadata": "10.20.0.14/32",
    "internet": "10.20.0.15/32",
    "ingress": "10.20.0.16/32",
    "prometheus": "10.20.0.17/32",
}
PEERS = {name: [{"ipBlock": {"cidr": cidr}}] for name, cidr in PLACES.items()}
OUTSIDE = read_outside(PEERS)
NETWORK = {"network": {name: {"peers": peers} for name, peers in PEERS.items()}}


@pytest.fixture(scope="module")
def dragonfly() -> Rendered:
    return render("production", "gpu", values=EXTRA | NETWORK)


@pytest.fixture(scope="module")
def gcsfuse() -> Rendered:
    return render("production", "gpu", values=GCSFUSE | NETWORK)


def test_the_policies_allow_exactly_what_is_drawn(dragonfly, gcsfuse):
    drawn = read_drawn_edges()
    assert len(drawn) > 40
    assert make_graph(dragonfly) | make_graph(gcsfuse) == drawn


def test_what_an_option_needs_is_open_with_it_alone(dragonfly, gcsfuse):
    assert make_graph(dragonfly) - make_graph(gcsfuse) == {Edge("node", "mirror", 4001)}
    small = make_graph(render("small", values=NETWORK))
    assert {edge.called for edge in small} | {edge.caller for edge in small} >= {"ingress", "dns"}
    for name in ("mirror", "collector", "prometheus", "metadata"):
        assert name not in {edge.called for edge in small} | {edge.caller for edge in small}


def test_a_policy_more_is_seen(dragonfly):
    more = copy.deepcopy(dragonfly.get("NetworkPolicy", "node"))
    more["spec"]["policyTypes"] = ["Egress"]
    more["spec"].pop("ingress")
    more["spec"]["egress"] = [{"to": PEERS["postgres"], "ports": [{"port": 5432}]}]
    graph = make_graph(dragonfly, [*dragonfly.of_kind("NetworkPolicy"), more])
    assert graph - make_graph(dragonfly) == {Edge("node", "postgres", 5432)}


def test_a_policy_less_is_seen(dragonfly):
    """Without its own, a pod is still closed by the one that is for all."""
    name = f"{chart.RELEASE}-keybroker"
    left = [it for it in dragonfly.of_kind("NetworkPolicy") if it["metadata"]["name"] != name]
    lost = make_graph(dragonfly) - make_graph(dragonfly, left)
    assert lost == {
        edge for edge in make_graph(dragonfly) if "keybroker" in (edge.caller, edge.called)
    }


def test_pods_that_no_policy_selects_are_seen_to_be_open(dragonfly):
    closing = (f"{chart.RELEASE}-nothing", f"{chart.RELEASE}-beat")
    left = [
        it for it in dragonfly.of_kind("NetworkPolicy") if it["metadata"]["name"] not in closing
    ]
    graph = make_graph(dragonfly, left)
    assert {Edge("beat", ANYBODY, 0), Edge(ANYBODY, "beat", 0)} <= graph


def test_one_side_alone_opens_nothing(dragonfly):
    policies = copy.deepcopy(dragonfly.of_kind("NetworkPolicy"))
    for policy in policies:
        if policy["metadata"]["name"] == f"{chart.RELEASE}-gateway":
            policy["spec"]["egress"] = [
                rule for rule in policy["spec"]["egress"] if rule["ports"][0]["port"] != 18000
            ]
    assert make_graph(dragonfly) - make_graph(dragonfly, policies) == {
        Edge("gateway", "node", 18000),
        Edge("gateway", "node", 18001),
    }


def test_nobody_may_speak_to_everybody(dragonfly):
    for policy in dragonfly.of_kind("NetworkPolicy"):
        for rule in [*(policy["spec"].get("ingress") or []), *(policy["spec"].get("egress") or [])]:
            assert rule.get("from") or rule.get("to")
            assert rule["ports"]


def test_the_internet_has_no_private_address():
    rules = render("production").get("NetworkPolicy", "worker")["spec"]["egress"]
    blocks = [peer["ipBlock"] for rule in rules for peer in rule["to"] if "ipBlock" in peer]
    [open_block] = {str(it): it for it in blocks if it["cidr"] == "0.0.0.0/0"}.values()
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(
        open_block["except"]
    )


def test_ports_of_policies_are_those_that_processes_listen_at(dragonfly):
    listening = {
        (chart.pod_labels(it)[chart.COMPONENT], port["containerPort"])
        for it in dragonfly.of_kind("Deployment")
        for port in chart.containers(it)[-1].get("ports", [])
    }
    allowed = {(edge.called, edge.port) for edge in make_graph(dragonfly)}
    ours = {name for name, _ in listening}
    assert {it for it in allowed if it[0] in ours} == listening
