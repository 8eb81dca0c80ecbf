"""The industries that have a page of their own, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Industry:
    """What a page about an industry says.

    Args:
        slug: As a listing names it.
        title: For people.
        summary: One sentence on what models do there.
    """

    slug: str
    title: str
    summary: str


INDUSTRIES = (
    Industry(
        "finance",
        "Finance",
        "Fraud scores, document reading and forecasts for banks, payments and markets.",
    ),
    Industry(
        "insurance",
        "Insurance",
        "Claims triage, damage recognition and risk models for insurers.",
    ),
    Industry(
        "healthcare",
        "Healthcare",
        "Medical images, clinical notes and triage, as help for those who decide.",
    ),
    Industry(
        "life-sciences",
        "Life sciences",
        "Molecules, proteins and laboratory images for research and pharma.",
    ),
    Industry(
        "retail",
        "Retail",
        "Demand forecasts, product search and recommendations for shops and brands.",
    ),
    Industry(
        "manufacturing",
        "Manufacturing",
        "Visual inspection, predictive maintenance and quality on the line.",
    ),
    Industry(
        "telecom",
        "Telecom",
        "Churn, network anomalies and call analysis for operators.",
    ),
    Industry(
        "energy",
        "Energy",
        "Load forecasts, grid monitoring and inspection of plants and lines.",
    ),
    Industry(
        "logistics",
        "Logistics",
        "Arrival times, parcel reading and planning for transport and warehouses.",
    ),
    Industry(
        "agriculture",
        "Agriculture",
        "Crops, livestock and fields, seen from the ground and from above.",
    ),
    Industry(
        "media",
        "Media",
        "Speech, pictures and text for publishers, studios and platforms.",
    ),
    Industry(
        "legal",
        "Legal",
        "Contracts, case law and documents, found, compared and summarised.",
    ),
    Industry(
        "public-sector",
        "Public sector",
        "Letters, forms and services of administrations, and help for citizens.",
    ),
    Industry(
        "education",
        "Education",
        "Tutoring, grading help and accessible teaching material.",
    ),
)
BY_SLUG = {one.slug: one for one in INDUSTRIES}


def title_of(slug: str) -> str:
    """What an industry is called; one that has no page is called by its own word."""
    found = BY_SLUG.get(slug)
    return found.title if found else slug.replace("-", " ").capitalize()
