"""The name of an address: what it is, without what a caller wrote into it.

Logs and traces show names only. A raw path may hold anything: a key that was pasted into it,
a line's end, a text of a megabyte.
"""

from __future__ import annotations

from collections.abc import Sequence

UNKNOWN = "unknown"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# `*` stands for a segment that a caller chooses. The first that fits is the name.
_ROUTES: Sequence[Sequence[str]] = [
    route.split("/")
    for route in (
        "health",
        "health/live",
        "health/ready",
        "metrics",
        "openapi.json",
        "v1/predictions",
        "v1/predictions/*",
        "v1/predictions/*/cancel",
        "v1/predictions/*/receipt",
        "v1/models/*/*",
        "v1/models/*/*/predictions",
        "v1/models/*/*/versions",
        "v1/models/*/*/versions/*",
        "v1/files",
        "v1/files/*",
        "v1/files/*/content",
        "v1/price",
        "v1/hardware",
        "v1/account",
        "v2",
        "v2/health/live",
        "v2/health/ready",
        "v2/models/*/*",
        "v2/models/*/*/ready",
        "v2/models/*/*/infer",
        "v2/models/*/*/generate",
        "v2/models/*/*/generate_stream",
        "v2/models/*/*/versions/*",
        "v2/models/*/*/versions/*/generate",
        "v2/models/*/*/versions/*/generate_stream",
        "v2/models/*/*/versions/*/ready",
        "v2/models/*/*/versions/*/infer",
        "openai/v1/models",
        "openai/v1/models/*",
        "openai/v1/models/*/*",
        "openai/v1/embeddings",
        "openai/v1/completions",
        "openai/v1/chat/completions",
        "mcp",
        "node/v1/start",
        "node/v1/claim",
        "node/v1/heartbeat",
        "node/v1/jobs/*/finish",
        "node/v1/jobs/*/hand-back",
        "inference.GRPCInferenceService/ServerLive",
        "inference.GRPCInferenceService/ServerReady",
        "inference.GRPCInferenceService/ServerMetadata",
        "inference.GRPCInferenceService/ModelReady",
        "inference.GRPCInferenceService/ModelMetadata",
        "inference.GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/ModelStreamInfer",
    )
]
_BY_LENGTH: dict[int, list[Sequence[str]]] = {}
for _route in _ROUTES:
    _BY_LENGTH.setdefault(len(_route), []).append(_route)


def name_route(segments: Sequence[str]) -> str:
    """The template of an address, as `/v1/models/*/*/predictions`, or `unknown`."""
    if segments[:2] == ["v1", "v1"]:
        # Half of the client libraries put /v1 behind a base URL that has it already.
        segments = segments[1:]
    for route in _BY_LENGTH.get(len(segments), ()):
        if all(part in ("*", given) for part, given in zip(route, segments, strict=True)):
            return "/" + "/".join(route)
    return UNKNOWN


def name_method(method: str) -> str:
    """A method of HTTP; a word that is none of them may be anything."""
    return method if method in _METHODS else UNKNOWN
