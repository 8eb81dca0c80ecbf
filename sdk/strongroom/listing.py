"""The listing: what `strongroom.toml` beside a model says about it.

`strongroom init` drafts it, a person completes it, `strongroom push` reads it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from strongroom.errors import InputError, InterfaceError, StrongroomError
from strongroom.interface import Interface
from strongroom.sealing.errors import PolicyError
from strongroom.sealing.manifest import DEFAULT_TOLERANCE, MAX_TEST_VECTORS, Manifest, TestVector
from strongroom.sealing.policy import Policy

LISTING_FILE = "strongroom.toml"
MAX_LISTING_BYTES = 4 * 1024 * 1024
# The card is shown on the model's page; the platform takes as many letters.
MAX_CARD_LENGTH = 65_536
NANOS_PER_DOLLAR = 10**9
VISIBILITIES = ("public", "private")
PUBLISH_CHANNELS = ("prod", "")

_TEXTS = ("owner", "name", "title", "summary", "task", "licence", "industry", "visibility")
_REQUIRED = ("owner", "name", "title", "task", "licence", "price_dollars_per_prediction")
_MEMBERS = frozenset(
    {
        *_TEXTS,
        "price_dollars_per_prediction",
        "publish",
        "card",
        "interface",
        "policy",
        "test_vectors",
    }
)


class ListingError(StrongroomError):
    """The listing cannot be used; the detail names the key."""

    def __init__(self, key: str, detail: str, code: str = "listing_invalid") -> None:
        super().__init__(code, f"{key}: {detail}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Listing:
    """A checked listing. `card` is a path relative to the model's folder."""

    owner: str
    name: str
    title: str
    task: str
    licence: str
    price_nanos: int
    interface: Interface
    summary: str = ""
    industry: str = ""
    visibility: str = "public"
    publish: str = "prod"
    card: str = ""
    test_vectors: tuple[TestVector, ...] = field(default=())
    policy: Policy = field(default_factory=Policy)

    @property
    def model(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    @classmethod
    def load(cls, folder: Path) -> Listing:
        """Read the listing of a folder.

        Raises:
            ListingError: `listing_missing` or `listing_invalid`.
        """
        path = folder / LISTING_FILE
        try:
            if path.stat().st_size > MAX_LISTING_BYTES:
                raise ListingError(LISTING_FILE, f"At most {MAX_LISTING_BYTES} bytes are allowed.")
            value = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            detail = "There is none in this folder. Run `strongroom init` first."
            raise ListingError(LISTING_FILE, detail, "listing_missing") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ListingError(LISTING_FILE, f"Not valid TOML: {error}.") from None
        return cls.parse(value)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Listing:
        """Check a decoded listing.

        Raises:
            ListingError: `listing_invalid`.
        """
        for key in sorted(set(value) - _MEMBERS):
            raise ListingError(key, "This key is not known.")
        for key in _REQUIRED:
            if value.get(key) in (None, ""):
                raise ListingError(key, "Is required.")
        texts = {key: _text(value, key) for key in (*_TEXTS, "card") if key in value}
        publish = _one_of(value, "publish", PUBLISH_CHANNELS, "prod")
        _one_of(value, "visibility", VISIBILITIES, "public")
        try:
            interface = Interface.parse(value.get("interface"))
        except InterfaceError as error:
            key = "interface" + error.pointer.replace("/", ".")
            raise ListingError(key, f"{error.detail} ({error.code})") from None
        return cls(
            **texts,
            price_nanos=parse_price(value["price_dollars_per_prediction"]),
            publish=publish,
            interface=interface,
            test_vectors=parse_test_vectors(value.get("test_vectors", []), interface),
            policy=_parse_policy(value.get("policy", {}), interface),
        )

    def read_card(self, folder: Path) -> str:
        """The text of the card; empty if the listing names none.

        Raises:
            ListingError: `listing_invalid` if the file is not there or too long.
        """
        if not self.card:
            return ""
        path = (folder / self.card).resolve()
        if not path.is_relative_to(folder.resolve()):
            # The card is public; a listing from elsewhere must not publish what lies around.
            raise ListingError("card", f"{self.card} lies outside the model's folder.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise ListingError("card", f"{self.card} cannot be read.") from None
        if len(text) > MAX_CARD_LENGTH:
            raise ListingError("card", f"At most {MAX_CARD_LENGTH} characters are allowed.")
        return text

    def draft_manifest(self, runtime: str) -> Manifest:
        """What the manifest of the next version will say, without its files."""
        return Manifest(
            artifact_id="",
            model=self.model,
            runtime=runtime,
            task=self.task,
            licence=self.licence,
            interface=self.interface.to_json(),
            files=(),
            created_at="",
            test_vectors=self.test_vectors,
            publish_channel=self.publish or None,
            policy=self.policy,
        )

    def to_toml(self) -> str:
        """The text of `strongroom.toml`."""
        head = {
            "owner": self.owner,
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "task": self.task,
            "licence": self.licence,
            "industry": self.industry,
            "visibility": self.visibility,
            "price_dollars_per_prediction": format_price(self.price_nanos),
            "publish": self.publish,
            "card": self.card,
        }
        described = self.interface.to_json()
        lines = [
            "# What this model is, what it costs, and what goes in and comes out.",
            '# publish = "prod" puts an approved version on sale at once; "" waits for you.',
            *_table(head),
            "",
            "[interface.batch]",
            *_table(described["batch"]),
        ]
        for member in ("inputs", "outputs"):
            for one in described[member]:
                lines += ["", f"[[interface.{member}]]", *_table(one)]
        lines += _policy_tables(self.policy)
        for vector in self.test_vectors:
            lines += ["", "[[test_vectors]]", *_table(vector.to_json())]
        return "\n".join(lines) + "\n"


def parse_price(value: Any) -> int:
    """Dollars per prediction, as a text or number, in nano-dollars.

    Raises:
        ListingError: `listing_invalid` for less than a nano-dollar's precision.
    """
    key = "price_dollars_per_prediction"
    try:
        dollars = Decimal(str(value)) if type(value) in {int, float, str} else Decimal("NaN")
    except InvalidOperation:
        dollars = Decimal("NaN")
    if not dollars.is_finite() or not 0 <= dollars <= 1_000_000:
        raise ListingError(key, 'Must be an amount of dollars, such as "0.0005".')
    nanos = dollars * NANOS_PER_DOLLAR
    if nanos != int(nanos):
        raise ListingError(key, "The smallest step is 0.000000001 dollars.")
    return int(nanos)


def format_price(nanos: int) -> str:
    """Nano-dollars as dollars, without an exponent."""
    text = f"{Decimal(nanos) / NANOS_PER_DOLLAR:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_test_vectors(value: Any, interface: Interface) -> tuple[TestVector, ...]:
    """Check inputs and expected outputs against the interface.

    Raises:
        ListingError: `listing_invalid`.
    """
    if not isinstance(value, list) or len(value) > MAX_TEST_VECTORS:
        raise ListingError("test_vectors", f"Must be a list of at most {MAX_TEST_VECTORS}.")
    return tuple(
        _parse_vector(one, f"test_vectors.{index}", interface) for index, one in enumerate(value)
    )


def _parse_vector(value: Any, key: str, interface: Interface) -> TestVector:
    if not isinstance(value, dict) or not {"input", "expected"} <= set(value) <= {
        "input",
        "expected",
        "tolerance",
    }:
        raise ListingError(key, "Must have input, expected and, if wanted, tolerance.")
    try:
        interface.check_input(value["input"], pointer="/input")
    except InputError as error:
        first = error.errors[0]
        raise ListingError(key + first["pointer"].replace("/", "."), first["detail"]) from None
    expected = value["expected"]
    known = {one.name for one in interface.outputs}
    if not isinstance(expected, dict) or not expected or not set(expected) <= known:
        raise ListingError(f"{key}.expected", "Must name outputs of the interface.")
    tolerance = value.get("tolerance", DEFAULT_TOLERANCE)
    if type(tolerance) not in {int, float} or not 0 <= tolerance <= 1:
        raise ListingError(f"{key}.tolerance", "Must be a number from 0 to 1.")
    return TestVector(value["input"], expected, tolerance)


def _parse_policy(value: Any, interface: Interface) -> Policy:
    try:
        return Policy.parse(value, interface)
    except PolicyError as error:
        raise ListingError("policy" + error.pointer.replace("/", "."), error.detail) from None


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value[key]
    if not isinstance(text, str):
        raise ListingError(key, "Must be a text.")
    return text


def _one_of(value: Mapping[str, Any], key: str, allowed: Sequence[str], default: str) -> str:
    chosen = value.get(key, default)
    if chosen not in allowed:
        raise ListingError(key, f"Must be one of: {', '.join(repr(one) for one in allowed)}.")
    return str(chosen)


# --- TOML -------------------------------------------------------------------------


def _policy_tables(policy: Policy) -> list[str]:
    members = policy.to_json()
    rules = members.pop("output", {})
    lines = ["", "[policy]", *_table(members)] if members else []
    for name, rule in rules.items():
        lines += ["", f"[policy.output.{_toml(name)}]", *_table(rule)]
    return lines


def _table(members: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in members.items()]


def _toml(value: Any) -> str:
    if isinstance(value, str):
        # The escapes of JSON are escapes of TOML; only DEL must be escaped as well.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    assert isinstance(value, int | float)
    return repr(value)
