"""Who calls the node API: a node with its token, and nobody else."""

from __future__ import annotations

from django.contrib.auth.models import AnonymousUser
from rest_framework import authentication, exceptions
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from inference.models import Node
from inference.selectors.node import find_node_by_token


class NodeAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer snt_…`; a revoked node's token is as good as none."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, Node]:
        """Nobody's user, and the node."""
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        node = find_node_by_token(text.strip()) if scheme.lower() == "bearer" else None
        if node is None:
            raise exceptions.AuthenticationFailed("This is not the token of a node.")
        return AnonymousUser(), node

    def authenticate_header(self, request: Request) -> str:
        """Makes a refusal a 401 with this challenge."""
        return "Bearer"


class IsNode(BasePermission):
    """Only nodes."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether the request carries a node's token."""
        return isinstance(request.auth, Node)
