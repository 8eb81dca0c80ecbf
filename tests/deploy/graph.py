"""Who may speak to whom, worked out from NetworkPolicies alone.

A call inside the cluster needs both sides: a policy that lets it out of the caller's pods, and
one that lets it into the other's. Pods that no policy selects may do anything; the graph says so
with a peer named `*`.

Source: Kubernetes, Network Policies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.deploy.chart import COMPONENT

Object = dict[str, Any]
ANYBODY = "*"
ANY_PORT = 0


@dataclass(frozen=True, order=True)
class Edge:
    """One thing that is allowed: from a name to a name, at a port."""

    caller: str
    called: str
    port: int


def compute_graph(
    policies: Iterable[Object], pods: Mapping[str, Mapping[str, str]], outside: Mapping[str, str]
) -> set[Edge]:
    """All that policies allow.

    Args:
        policies: NetworkPolicies of one namespace.
        pods: Labels of our pods, by component.
        outside: Names of peers that are not ours, by their JSON (see `peer_key`). A peer that is
            not among them is named by its JSON.
    """
    found = list(policies)
    out_of = {pod: _allowed(found, pods, outside, pod, "Egress") for pod in pods}
    into = {pod: _allowed(found, pods, outside, pod, "Ingress") for pod in pods}
    edges = set()
    for pod in pods:
        for peer, port in out_of[pod]:
            taken = _taken(into[peer], pod, port) if peer in pods else {port}
            edges |= {Edge(pod, peer, at) for at in taken}
        for peer, port in into[pod]:
            if peer not in pods:
                edges.add(Edge(peer, pod, port))
    return edges


def peer_key(peer: Object) -> str:
    """A peer of a policy as a key."""
    return json.dumps(peer, sort_keys=True)


def _taken(allowed: set[tuple[str, int]], caller: str, port: int) -> set[int]:
    """Of what one side sends to a port, that which the other side lets in."""
    return {
        max(at, port)
        for peer, at in allowed
        if peer in (caller, ANYBODY) and (at == port or ANY_PORT in (at, port))
    }


def _allowed(
    policies: list[Object],
    pods: Mapping[str, Mapping[str, str]],
    outside: Mapping[str, str],
    pod: str,
    direction: str,
) -> set[tuple[str, int]]:
    """Peers and ports of one pod in one direction."""
    chosen = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and _matches(policy["spec"]["podSelector"], pods[pod])
    ]
    if not chosen:
        return {(ANYBODY, ANY_PORT)}
    allowed = set()
    for spec in chosen:
        for rule in spec.get(direction.lower()) or []:
            peers = _peers(rule.get("from" if direction == "Ingress" else "to"), pods, outside)
            ports = {entry["port"] for entry in rule.get("ports") or []} or {ANY_PORT}
            allowed |= {(peer, port) for peer in peers for port in ports}
    return allowed


def _peers(
    entries: list[Object] | None,
    pods: Mapping[str, Mapping[str, str]],
    outside: Mapping[str, str],
) -> set[str]:
    if not entries:
        return {ANYBODY}
    peers = set()
    for entry in entries:
        if set(entry) == {"podSelector"}:
            peers |= {name for name in pods if _matches(entry["podSelector"], pods[name])}
        else:
            peers.add(outside.get(peer_key(entry), peer_key(entry)))
    return peers


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    if selector.get("matchExpressions"):
        raise ValueError("matchExpressions are not understood here")
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def labels_of(workloads: Iterable[Object]) -> dict[str, dict[str, str]]:
    """Labels of the pods of some workloads, by component."""
    labels = [workload["spec"]["template"]["metadata"]["labels"] for workload in workloads]
    return {found[COMPONENT]: found for found in labels}
