from __future__ import annotations

from django.contrib import admin

from inference.models import Artifact, OnboardingStep, SigningKey, Upload
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "account", "state", "created_at", "expires_at"]
    list_filter = ["state"]
    search_fields = ["id", "account__slug", "version__model__name"]
    list_select_related = ["account", "version__model__account"]
    ordering = ["-pk"]


@admin.register(Artifact)
class ArtifactAdmin(ReadOnlyAdmin):
    list_display = ["version", "manifest_sha256", "size_bytes", "signing_key", "created_at"]
    search_fields = ["manifest_sha256", "version__model__name"]
    list_select_related = ["version__model__account", "signing_key"]
    ordering = ["-created_at"]


@admin.register(SigningKey)
class SigningKeyAdmin(ReadOnlyAdmin):
    list_display = ["fingerprint", "account", "created_at", "revoked_at"]
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
