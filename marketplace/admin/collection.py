from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db import models, transaction
from django.http import HttpRequest

from marketplace.context import actor_of
from marketplace.core import limits
from marketplace.models import Collection, CollectionEntry
from marketplace.services import audit


class EntryInline(admin.TabularInline):
    model = CollectionEntry
    extra = 1
    max_num = limits.COLLECTION_MODELS_MAX
    # A list of all models would be a page of its own.
    raw_id_fields = ["model"]


class CollectionAdminForm(forms.ModelForm):
    def clean_slug(self) -> str:
        # The constraint looks at the account too, which this form does not have.
        slug = str(self.cleaned_data["slug"])
        same = Collection.objects.filter(account=self.instance.account_id, slug=slug)
        if same.exclude(pk=self.instance.pk).exists():
            raise forms.ValidationError("A collection has this address already.")
        return slug


@admin.register(Collection)
class CollectionAdmin(admin.ModelAdmin):
    """Models that editors put together, and accounts' own; each change is in the audit log."""

    form = CollectionAdminForm
    list_display = ["title", "slug", "account", "is_public", "updated_at"]
    list_select_related = ["account"]
    readonly_fields = ["account"]
    list_filter = ["is_public"]
    search_fields = ["title", "slug"]
    inlines = [EntryInline]
    formfield_overrides = {models.CharField: {"widget": forms.TextInput(attrs={"size": 60})}}

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        collection = form.instance
        names = [str(one.model) for one in collection.entries.select_related("model__account")]
        payload = {"slug": collection.slug, "is_public": collection.is_public, "models": names}
        action = "collection.update" if change else "collection.create"
        audit.record(
            actor_of(request).label,
            action,
            collection,
            account_id=collection.account_id,
            payload=payload,
        )

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # Deleting many at once would leave the log out.
        return {}

    def delete_model(self, request: HttpRequest, obj: Collection) -> None:
        with transaction.atomic():
            audit.record(
                actor_of(request).label,
                "collection.delete",
                obj,
                account_id=obj.account_id,
                payload={"slug": obj.slug},
            )
            super().delete_model(request, obj)
