"""The node API: enrol, read the desired state, fetch ciphertext, report."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import FileResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.api.artifact import Slice, read_range
from inference.api.node_authentication import IsNode, NodeAuthentication
from inference.api.parsing import ReportParser
from inference.models import Node
from inference.node_certificate import PEM_BYTES_MAX
from inference.selectors import node as nodes
from inference.services import node as node_service
from inference.services import object_store
from marketplace.core.errors import NotFoundError


class EnrolmentSerializer(serializers.Serializer):
    certificate = serializers.CharField(max_length=PEM_BYTES_MAX, trim_whitespace=False)
    name = serializers.CharField(max_length=63)
    token_sha256 = serializers.RegexField("^[0-9a-f]{64}$")
    signed_at = serializers.DateTimeField()
    signature = serializers.CharField(max_length=88)
    triton = serializers.DictField(child=serializers.CharField(max_length=200, allow_blank=True))
    info = serializers.JSONField(default=dict)


class WorkSerializer(serializers.Serializer):
    state = serializers.CharField(max_length=16)
    reason_code = serializers.CharField(max_length=64, default="", allow_blank=True)
    result = serializers.JSONField(default=dict)


class EnrolView(APIView):
    authentication_classes = ()
    permission_classes = ()
    parser_classes = (ReportParser,)

    def post(self, request: Request) -> Response:
        """Let a node in that the key broker has certified."""
        body = EnrolmentSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        assert isinstance(request.data, dict)  # The parser takes nothing else.
        node = node_service.enrol_node(
            node_service.Enrolment(
                certificate=given["certificate"],
                name=given["name"],
                token_digest=bytes.fromhex(given["token_sha256"]),
                urls=given["triton"],
                info=given["info"],
                signed_at=given["signed_at"],
                signed=request.data,
            )
        )
        return Response({"node_id": str(node.pk)}, status=201)


class NodeAPIView(APIView):
    authentication_classes = (NodeAuthentication,)
    permission_classes = (IsNode,)
    parser_classes = (ReportParser,)

    @property
    def node(self) -> Node:
        """The calling node."""
        node = self.request.auth
        assert isinstance(node, Node)
        return node


class DesiredView(NodeAPIView):
    def get(self, request: Request) -> Response:
        """What the node should hold loaded."""
        return Response(nodes.describe_desired(self.node))


class ReportView(NodeAPIView):
    def post(self, request: Request) -> Response:
        """Take the node's word on itself."""
        assert isinstance(request.data, dict)  # The parser takes nothing else.
        node_service.record_report(node=self.node, report=request.data)
        return Response({})


class PrefetchView(NodeAPIView):
    def get(self, request: Request) -> Response:
        """Versions whose ciphertext the node may fetch ahead, the likeliest first."""
        return Response({"versions": nodes.list_likely(self.node)})


class ArtifactView(NodeAPIView):
    def get(self, request: Request, version_id: UUID) -> Response:
        """The manifest and the platform's wrap of a version that the node has, or may have soon."""
        return Response(nodes.describe_artifact(nodes.access_artifact(self.node, version_id)))


class PartResponse(FileResponse):
    """A part of 64 MiB, in chunks that are worth a system call."""

    block_size = object_store.CHUNK_BYTES


class PartView(NodeAPIView):
    def get(self, request: Request, version_id: UUID, file_index: int, part: int) -> PartResponse:
        """The ciphertext of one part, or of the rest of it, streamed."""
        row = nodes.access_part(self.node, version_id, file_index, part)
        first, last = read_range(request.headers, row.sha256, row.size_bytes)
        try:
            file = object_store.open_part(row.storage_name)
        except FileNotFoundError:
            raise NotFoundError("The part is not in the store.") from None
        file.seek(first)
        is_whole = (first, last) == (0, row.size_bytes - 1)
        headers: dict[str, Any] = {
            "Content-Length": last - first + 1,
            "X-Part-SHA256": row.sha256,
            "Cache-Control": "private, no-store",
        }
        if not is_whole:
            headers["Content-Range"] = f"bytes {first}-{last}/{row.size_bytes}"
        return PartResponse(
            Slice(file, last - first + 1),
            status=200 if is_whole else 206,
            content_type="application/octet-stream",
            headers=headers,
        )


class WorkView(NodeAPIView):
    def post(self, request: Request, work_id: UUID) -> Response:
        """Take the result of a test or a benchmark."""
        work = nodes.access_work(self.node, work_id)
        body = WorkSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        node_service.record_work(work=work, **body.validated_data)
        return Response({})
