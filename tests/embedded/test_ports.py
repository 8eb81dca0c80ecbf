import socket

import pytest

from embedded import ports


def test_a_listening_port_is_taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]

        assert not ports.is_free(port)
        assert ports.is_listening(port)

    assert ports.is_free(port)
    assert not ports.is_listening(port)


def test_chosen_ports_are_below_those_of_outgoing_connections():
    chosen = {ports.choose() for _ in range(20)}

    assert all(20_000 <= port < 32_000 for port in chosen)


def test_nobody_is_given_the_port_of_another_who_does_not_listen_yet(monkeypatch):
    monkeypatch.setattr(ports, "_CHOICE", range(21_000, 21_100))
    monkeypatch.setattr(ports, "is_free", lambda port: True)

    assert len({ports.choose() for _ in range(100)}) == 100


def test_a_taken_port_is_not_chosen(monkeypatch):
    monkeypatch.setattr(ports, "_CHOICE", range(21_000, 21_003))
    monkeypatch.setattr(ports, "is_free", lambda port: port != 21_001)

    assert {ports.choose([21_000]) for _ in range(50)} == {21_002}


def test_no_free_port_is_an_error(monkeypatch):
    monkeypatch.setattr(ports, "is_free", lambda port: False)

    with pytest.raises(OSError, match="no free port"):
        ports.choose()
