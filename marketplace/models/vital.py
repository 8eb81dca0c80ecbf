"""Signs of life of what runs by itself, and the last results of its checks."""

from __future__ import annotations

from django.db import models


class Vital(models.Model):
    """The last word of one part of the product about itself."""

    class State(models.TextChoices):
        GOOD = "good", "Good"
        BAD = "bad", "Bad"

    name = models.CharField(max_length=80, primary_key=True)
    at = models.DateTimeField()
    state = models.CharField(max_length=4, choices=State)
    detail = models.CharField(max_length=500, blank=True)

    def __str__(self) -> str:
        return f"{self.name}: {self.state}"
