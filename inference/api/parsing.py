"""The limits of the bodies that creators' clients and nodes send."""

from __future__ import annotations

from marketplace.api.parsing import BoundedJSONParser


class UploadParser(BoundedJSONParser):
    """What pushing sends. The largest is a manifest, a text inside a JSON text, and its wraps."""

    body_bytes_max = 3 * 1024 * 1024


class ReportParser(BoundedJSONParser):
    """What nodes send."""

    body_bytes_max = 512 * 1024
