"""Uploads and signing keys, as `strongroom push` uses them."""

from __future__ import annotations

from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.api.parsing import UploadParser
from inference.selectors import onboarding as onboardings
from inference.selectors import signing_key as signing_keys
from inference.selectors import upload as uploads
from inference.selectors.version import describe_version
from inference.services import artifact, signing_key, upload
from marketplace.api.authentication import actor_of
from marketplace.models import ModelVersion
from marketplace.selectors.access import access_account, access_model
from strongroom.sealing import floe

SHOWN_KEYS_MAX = 100


class SigningKeySerializer(serializers.Serializer):
    account = serializers.CharField(max_length=39)
    public_key = serializers.CharField(max_length=64)


class BeginSerializer(serializers.Serializer):
    # The SDK's own check says exactly what is wrong with which file.
    files = serializers.JSONField()
    signing_key = serializers.CharField(max_length=64)
    # Kinds of wraps that the client can make; all that there are, if it does not say.
    suites = serializers.ListField(
        child=serializers.CharField(max_length=40), required=False, min_length=1, max_length=8
    )


class CheckSerializer(serializers.Serializer):
    manifest = serializers.CharField(trim_whitespace=False)


class CompleteSerializer(serializers.Serializer):
    # Exactly as sent: a trimmed text would have another hash.
    manifest = serializers.CharField(trim_whitespace=False)
    signature = serializers.CharField(max_length=128)
    # Not a list of fields: a million entries would be looked at before they are counted.
    wrapped_keys = serializers.JSONField()


class SigningKeysView(APIView):
    parser_classes = (UploadParser,)

    def get(self, request: Request) -> Response:
        """The keys of an account, the newest first, with the last version of each."""
        slug = request.query_params.get("account", "")
        account = access_account(actor_of(request), slug, "push")
        # A bound for scripts that make a key each time and revoke it.
        found = signing_keys.list_signing_keys(account)[:SHOWN_KEYS_MAX]
        return Response({"results": [signing_keys.describe_signing_key(key) for key in found]})

    def post(self, request: Request) -> Response:
        """Make a creator's public key known; the same key again changes nothing."""
        body = SigningKeySerializer(data=request.data)
        body.is_valid(raise_exception=True)
        actor = actor_of(request)
        account = access_account(actor, body.validated_data["account"], "push")
        session = request._request.session  # noqa: SLF001 - the framework has no name for it
        key = signing_key.register_signing_key(
            account=account,
            actor=actor,
            public_key=body.validated_data["public_key"],
            session_key="" if actor.api_key else session.session_key or "",
        )
        answer = {"id": str(key.pk), "fingerprint": key.fingerprint, "state": str(key.state)}
        return Response(answer)


class SigningKeyView(APIView):
    def delete(self, request: Request, key_id: UUID) -> Response:
        """Revoke a key. Versions that it signed and that were approved go on to serve."""
        actor = actor_of(request)
        key = signing_keys.access_signing_key(actor, key_id)
        revoked = signing_key.revoke_signing_key(key=key, actor=actor)
        return Response(signing_keys.describe_signing_key(revoked))


class ManifestChecksView(APIView):
    parser_classes = (UploadParser,)

    def post(self, request: Request) -> Response:
        """Check a manifest before anything is sealed; keeps nothing."""
        body = CheckSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        manifest = artifact.parse_manifest(body.validated_data["manifest"])
        return Response({"interface": manifest.parsed_interface.to_json()})


class UploadsView(APIView):
    parser_classes = (UploadParser,)

    def post(self, request: Request, owner: str, name: str) -> Response:
        """Announce the files of a new version."""
        actor = actor_of(request)
        model = access_model(actor, owner, name, "push")
        body = BeginSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        begun = upload.begin_upload(
            model=model,
            actor=actor,
            files=body.validated_data["files"],
            fingerprint=body.validated_data["signing_key"],
            suites=body.validated_data.get("suites"),
        )
        answer = uploads.describe_upload(begun) | {"part_size_bytes": floe.PART_BYTES}
        return Response(answer, status=201)


class UploadView(APIView):
    def get(self, request: Request, upload_id: UUID) -> Response:
        """State and received parts, to carry on after a cut."""
        found = uploads.access_upload(actor_of(request), upload_id)
        return Response(uploads.describe_upload(found) | {"part_size_bytes": floe.PART_BYTES})

    def delete(self, request: Request, upload_id: UUID) -> Response:
        """Give the upload up."""
        actor = actor_of(request)
        upload.abort_upload(upload=uploads.access_upload(actor, upload_id), actor=actor)
        return Response(status=204)


class PartView(APIView):
    # The body is a stream of its own; nothing may read it before the service does.
    parser_classes = ()

    def put(self, request: Request, upload_id: UUID, file_index: int, part: int) -> Response:
        """Receive one part of ciphertext."""
        length = request.META.get("CONTENT_LENGTH") or ""
        stored = upload.receive_part(
            upload=uploads.access_upload(actor_of(request), upload_id),
            file_index=file_index,
            part=part,
            sha256=request.headers.get("X-Part-SHA256", ""),
            size_bytes=int(length) if length.isdecimal() else None,
            stream=request._request,  # noqa: SLF001 - the framework would parse it
        )
        return Response({"size_bytes": stored.size_bytes, "sha256": stored.sha256})


class CompleteView(APIView):
    parser_classes = (UploadParser,)

    def post(self, request: Request, upload_id: UUID) -> Response:
        """Hand in the signed manifest."""
        actor = actor_of(request)
        found = uploads.access_upload(actor, upload_id)
        body = CompleteSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        version = artifact.complete_upload(
            upload=found,
            actor=actor,
            manifest_text=body.validated_data["manifest"],
            signature_text=body.validated_data["signature"],
            wrapped_keys=body.validated_data["wrapped_keys"],
        )
        versions = onboardings.with_steps(ModelVersion.objects.filter(pk=version.pk))
        return Response(describe_version(versions.get()), status=202)
