"""What happens to a version while nobody calls it."""

from __future__ import annotations

from django import forms

from inference.models.node import IDLE_AFTER_MAX_S, IDLE_AFTER_MIN_S

MINUTES_MAX = IDLE_AFTER_MAX_S // 60


class WakeForm(forms.Form):
    """Minutes for people, seconds inside."""

    idle_minutes = forms.IntegerField(
        label="Unload after, minutes without a call",
        required=False,
        min_value=IDLE_AFTER_MIN_S // 60,
        max_value=MINUTES_MAX,
        help_text=f"1 to {MINUTES_MAX}. Empty: never.",
    )
    is_always_warm = forms.BooleanField(
        label="Always warm",
        required=False,
        help_text="Paid by the hour: a copy stays loaded, whatever the time above says.",
    )

    @property
    def policy(self) -> dict[str, int | bool | None]:
        """The arguments of the service; of a valid form."""
        minutes = self.cleaned_data["idle_minutes"]
        return {
            "idle_after_s": None if minutes is None else minutes * 60,
            "is_always_warm": self.cleaned_data["is_always_warm"],
        }
