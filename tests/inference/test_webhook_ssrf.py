"""Webhooks lead to nobody's inside: not when they are named, and not when they are sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from django.utils import timezone

from inference.core import calling
from inference.models import WebhookDelivery, WebhookEndpoint
from inference.services import outgoing, webhook_secret
from inference.services.outgoing import OutgoingError
from inference.services.webhook_delivery import send_webhooks
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import new_id
from marketplace.selectors.access import Actor
from tests.factories import AIModelFactory, ModelVersionFactory
from tests.inference.hooked import add, finish

PUBLIC = "93.184.216.34"
# Every way of writing an address of ours that resolvers understand.
INSIDE = [
    *("127.0.0.1", "127.1", "127.0.1", "0.0.0.0", "0", "10.1.2.3", "172.16.0.1", "192.168.0.1"),
    *("169.254.169.254", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255"),
    # Decimal, octal, hexadecimal.
    *("2130706433", "2852039166", "0177.0.0.1", "0x7f.1", "0x7f000001", "017700000001"),
    *("0xa9fea9fe", "0251.0376.0251.0376"),
    *("[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]"),
    # Those of IPv4 inside of IPv6.
    *("[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[::ffff:7f00:1]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
    *("localhost", "localhost."),
]


@pytest.fixture
def production(settings) -> None:
    settings.DEVELOPMENT = False


@pytest.fixture
def inside() -> Iterator[tuple[int, list[object]]]:
    """Something of ours on this machine that notices each connection."""
    met: list[object] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                peer, address = listener.accept()
            except OSError:
                return
            met.append(address)
            peer.close()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1], met
    # Wakes the one who waits.
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def turn_name(monkeypatch, *answers: list[str]) -> list[str]:
    """A name whose addresses change with each question; what is an address stays one."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host, port, *rest, **options):
        if host != "turning.example":
            if host == PUBLIC:
                raise OSError("no way out of this test")
            return real(host, port, *rest, **options)
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.django_db
@pytest.mark.parametrize("host", INSIDE)
def test_an_address_inside_is_refused_when_it_is_named(owner, account, production, host):
    with pytest.raises(InvalidInputError):
        add(Actor(user=owner), account, f"https://{host}/hook")
    assert not WebhookEndpoint.objects.exists()


@pytest.mark.parametrize("host", INSIDE)
def test_an_address_inside_is_refused_when_it_is_sent_to(production, host):
    with pytest.raises(OutgoingError, match=r"public one|cannot be resolved"):
        outgoing.send(f"https://{host}/hook", body=b"{}", headers={}, limit_s=5)


@pytest.mark.django_db
@pytest.mark.parametrize("answer", [["10.0.0.5"], [PUBLIC, "10.0.0.5"], ["169.254.169.254"], []])
def test_a_name_that_leads_inside_is_refused(owner, account, production, monkeypatch, answer):
    turn_name(monkeypatch, answer)
    with pytest.raises(InvalidInputError):
        add(Actor(user=owner), account, "https://turning.example/hook")


@pytest.mark.django_db
@pytest.mark.parametrize("url", ["", "https://turning.example/own"])
def test_a_name_that_turns_inside_later_is_not_called(
    owner, account, production, monkeypatch, inside, url
):
    port, met = inside
    turn_name(monkeypatch, [PUBLIC], ["127.0.0.1"])
    version = ModelVersionFactory(model=AIModelFactory(account=account))
    if url:
        # The gateway looked at it when it was named.
        outgoing.check_target(url, pointer="/webhook")
        finish(account, version, url=f"https://turning.example:{port}/own")
    else:
        add(Actor(user=owner), account, f"https://turning.example:{port}/hook")
        finish(account, version)
    send_webhooks()

    assert WebhookDelivery.objects.get().last_error == "This address is not a public one."
    assert met == []


def test_a_name_that_turns_between_check_and_call_leads_nowhere(production, monkeypatch, inside):
    port, met = inside
    asked = turn_name(monkeypatch, [PUBLIC], ["127.0.0.1"])
    with pytest.raises(OutgoingError, match="could not be reached"):
        outgoing.send(f"https://turning.example:{port}/hook", body=b"{}", headers={}, limit_s=5)

    assert asked == ["turning.example"]
    assert met == []


def test_control_without_the_pin_it_would_lead_inside(production, monkeypatch, inside):
    port, met = inside
    turn_name(monkeypatch, [PUBLIC], ["127.0.0.1"])
    # Connect to the name, as libraries do, and not to what was checked.
    monkeypatch.setattr(
        calling,
        "_open",
        lambda target, _: socket.create_connection((target.host, target.port), timeout=5),
    )
    with pytest.raises(OutgoingError):
        outgoing.send(f"https://turning.example:{port}/hook", body=b"{}", headers={}, limit_s=5)

    assert len(met) == 1


@pytest.mark.django_db
def test_an_endpoint_of_before_the_rules_is_not_called(account, production, inside):
    """What stands in the table is looked at again, whoever put it there."""
    port, met = inside
    row = WebhookEndpoint(pk=new_id(), account=account, url=f"https://127.0.0.1:{port}/")
    row.sealed_secret, _ = webhook_secret.make_secret(row.pk)
    row.save()
    finish(account, ModelVersionFactory(model=AIModelFactory(account=account)))
    send_webhooks()

    delivery = WebhookDelivery.objects.get()
    assert delivery.last_error == "This address is not a public one."
    assert delivery.next_at > timezone.now()
    assert met == []


def test_a_resolver_that_says_nothing_is_not_waited_for(production, monkeypatch):
    monkeypatch.setattr(calling, "STEP_LIMIT_S", 0.2)
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(30) and [])
    try:
        with pytest.raises(OutgoingError, match="cannot be resolved"):
            outgoing.send("https://silent.example/", body=b"{}", headers={}, limit_s=5)
    finally:
        done.set()
