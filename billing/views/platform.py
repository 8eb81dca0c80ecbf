"""Who may see the platform's own pages about money: the same as of all its pages."""

from __future__ import annotations

from marketplace.views.platform import platform_admin_required

__all__ = ["platform_admin_required"]
