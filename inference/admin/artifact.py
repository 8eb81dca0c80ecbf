from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from inference.models import Artifact, OnboardingStep, SigningKey, Upload
from inference.services import shredding
from marketplace.admin.decision import confirm_with_reason
from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.context import actor_of


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "account", "state", "created_at", "expires_at"]
    list_filter = ["state"]
    search_fields = ["id", "account__slug", "version__model__name"]
    list_select_related = ["account", "version__model__account"]
    ordering = ["-pk"]


@admin.register(Artifact)
class ArtifactAdmin(ReadOnlyAdmin):
    """The sealed files of versions. Shredding their keys makes every copy useless."""

    list_display = ["version", "manifest_sha256", "size_bytes", "signing_key", "created_at"]
    search_fields = ["manifest_sha256", "version__model__name"]
    list_select_related = ["version__model__account", "signing_key"]
    actions = ["shred", "shred_models"]
    ordering = ["-created_at"]

    @admin.action(description="Shred the keys of the selected versions …")
    def shred(self, request: HttpRequest, rows: QuerySet[Artifact]) -> HttpResponse | None:
        return confirm_with_reason(
            self,
            request,
            rows,
            action="shred",
            title="Shred the keys of versions",
            warning="Nobody can open them any more, from any copy. This cannot be undone.",
            button="Shred",
            decide=lambda artifact, reason: shredding.shred_version(
                version=artifact.version, actor=actor_of(request), reason=reason
            ),
        )

    @admin.action(description="Shred all keys of the selected versions' models …")
    def shred_models(self, request: HttpRequest, rows: QuerySet[Artifact]) -> HttpResponse | None:
        return confirm_with_reason(
            self,
            request,
            rows,
            action="shred_models",
            title="Shred all keys of models",
            warning="Nobody can open any version of them any more, and none can be pushed again. "
            "This cannot be undone.",
            button="Shred",
            decide=lambda artifact, reason: shredding.shred_model(
                model=artifact.version.model, actor=actor_of(request), reason=reason
            ),
        )


@admin.register(SigningKey)
class SigningKeyAdmin(ReadOnlyAdmin):
    list_display = [
        "fingerprint",
        "account",
        "state",
        "registered_by",
        "created_at",
        "confirmed_at",
        "trusted_at",
        "revoked_at",
    ]
    search_fields = ["fingerprint", "account__slug"]
    list_select_related = ["account"]
    ordering = ["-created_at"]


@admin.register(OnboardingStep)
class OnboardingStepAdmin(ReadOnlyAdmin):
    list_display = ["version", "name", "state", "attempt", "reason_code", "started_at"]
    list_filter = ["state", "name", "reason_code"]
    search_fields = ["version__id", "version__model__name", "version__model__account__slug"]
    list_select_related = ["version__model__account"]
    ordering = ["-version__created_at", "position"]
