from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from inference.models import Deployment, KeyRelease, KeyShred, Node, Replica, ReplicaWork
from inference.selectors.node import LOST_AFTER
from inference.selectors.wake import describe_temperature, with_warmth
from inference.services import deployment
from inference.services import node as node_service
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline
from marketplace.core.clock import utc_now
from marketplace.core.money import format_nanos
from marketplace.models import User
from marketplace.selectors.access import Actor


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """Nodes write their own rows; a person can only have one drained, or put it out."""

    list_display = [
        "name",
        "condition",
        "sandbox",
        "triton_http_url",
        "last_seen_at",
    ]
    search_fields = ["name", "id"]
    # The digest of its token is nobody's business.
    exclude = ["token_digest"]
    actions = ["drain", "undrain", "revoke"]
    ordering = ["name"]

    @admin.display(description="Condition")
    def condition(self, node: Node) -> str:
        if node.revoked_at is not None:
            return "revoked"
        if node.last_seen_at is None or node.last_seen_at < utc_now() - LOST_AFTER:
            return "lost"
        if node.drain_requested_at is not None:
            return "draining"
        return "ready" if node.triton_ready else "no Triton"

    @admin.display(description="Sandbox")
    def sandbox(self, node: Node) -> str:
        """What confines its serving processes, as it says itself."""
        found = node.info.get("sandbox")
        if not isinstance(found, dict):
            return "not told"
        abi = found.get("landlock_abi")
        parts = [
            f"Landlock {abi}" if abi and found.get("mode") == "full" else "no Landlock",
            "seccomp" if found.get("seccomp") is True else "no seccomp",
            f"memory locked: {found.get('mlock', 'unknown')}",
            "no swap" if found.get("swap") is False else "swap",
        ]
        return ", ".join(parts)

    @admin.action(description="Drain the selected nodes: they finish, and take no more")
    def drain(self, request: HttpRequest, rows: QuerySet[Node]) -> None:
        self._drain(request, rows, is_draining=True)

    @admin.action(description="Let the selected nodes take work again")
    def undrain(self, request: HttpRequest, rows: QuerySet[Node]) -> None:
        self._drain(request, rows, is_draining=False)

    def _drain(self, request: HttpRequest, rows: QuerySet[Node], *, is_draining: bool) -> None:
        assert isinstance(request.user, User)
        actor = Actor(user=request.user)
        for node in rows:
            if not node_service.drain_node(node=node, actor=actor, is_draining=is_draining):
                self.message_user(request, f"{node.name} stays as it is.", messages.WARNING)
                continue
            done = "drains" if is_draining else "takes work again"
            self.message_user(request, f"{node.name} {done}.", messages.SUCCESS)

    @admin.action(description="Revoke the selected nodes")
    def revoke(self, request: HttpRequest, rows: QuerySet[Node]) -> None:
        assert isinstance(request.user, User)
        actor = Actor(user=request.user)
        for node in rows:
            node_service.revoke_node(node=node, actor=actor)
            self.message_user(request, f"{node.name} is revoked.", messages.SUCCESS)


class ReplicaWorkInline(ReadOnlyInline):
    model = ReplicaWork


@admin.register(Replica)
class ReplicaAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "purpose", "wanted", "state", "reason_code", "changed_at"]
    list_filter = ["state", "purpose", "wanted", "node"]
    search_fields = ["id", "version__model__name", "version__model__account__slug"]
    list_select_related = ["version__model__account", "node"]
    inlines = [ReplicaWorkInline]
    ordering = ["-pk"]


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    """What should run. One whose version is on a channel comes back by itself."""

    list_display = [
        "__str__",
        "warmth",
        "replica_count",
        "load_replica_count",
        "idle_after_s",
        "is_always_warm",
        "warm_hour",
        "next_warm_hour_at",
        "last_wanted_at",
        "created_at",
        "stopped_at",
    ]
    list_filter = [("stopped_at", admin.EmptyFieldListFilter), "is_always_warm"]
    search_fields = ["version__model__name", "version__model__account__slug"]
    list_select_related = ["version__model__account"]
    actions = ["stop"]
    ordering = ["-pk"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deployment]:
        return with_warmth(super().get_queryset(request))

    @admin.display(description="State")
    def warmth(self, row: Deployment) -> str:
        if row.stopped_at is not None:
            return "Stopped"
        return str(describe_temperature(row).state.label)

    @admin.display(description="Warm hour")
    def warm_hour(self, row: Deployment) -> str:
        return "" if row.warm_hour_nanos is None else format_nanos(row.warm_hour_nanos)

    @admin.action(description="Stop the selected deployments")
    def stop(self, request: HttpRequest, rows: QuerySet[Deployment]) -> None:
        for row in rows:
            deployment.stop_deployment(deployment_id=row.pk)
        self.message_user(request, "Stopped.", messages.SUCCESS)


@admin.register(KeyRelease)
class KeyReleaseAdmin(ReadOnlyAdmin):
    """Each time a data key was asked for: by which node, for what, and what became of it."""

    list_display = [
        "at",
        "outcome",
        "reason_code",
        "node_name",
        "purpose",
        "evidence",
        "artifact_id",
        "seq",
    ]
    list_filter = ["outcome", "purpose", "reason_code", "node_name"]
    search_fields = ["artifact_id", "node_id", "node_name", "replica_id", "lease_id"]
    ordering = ["-id"]


@admin.register(KeyShred)
class KeyShredAdmin(ReadOnlyAdmin):
    """The proofs that keys were destroyed."""

    list_display = ["at", "model_id", "artifact_id", "provider", "by", "final_at"]
    search_fields = ["model_id", "artifact_id", "by"]
    ordering = ["-at"]
