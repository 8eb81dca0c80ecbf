import json

import pytest

from embedded import environment
from embedded.environment import Place
from tests.embedded.places import make_place

PROCESSES = ("web", "worker", "beat", "gateway", "keybroker", "node", "fakestripe", "demo")


@pytest.fixture
def place(tmp_path):
    return make_place(
        tmp_path, person={"HOME": "/home/ada", "PATH": "/opt/evil", "LANG": "C.UTF-8"}
    )


def has_database(env: dict[str, str]) -> bool:
    return "postgresql://" in json.dumps(env) or any("DATABASE" in name for name in env)


def holders(place: Place, text: str) -> set[str]:
    """The processes whose environment holds a text anywhere."""
    return {name for name in PROCESSES if text in json.dumps(environment.for_process(place, name))}


def test_the_node_has_no_way_into_the_database(place):
    assert not has_database(environment.for_process(place, "node"))
    # The check sees one where there is one.
    assert has_database(environment.for_process(place, "gateway"))
    assert has_database({**environment.for_process(place, "node"), "X": "postgresql://a@b/c"})


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        ("secret_key", {"web", "worker", "beat"}),
        ("postgres_superuser", set()),
        ("strongroom_owner", set()),
        ("strongroom_app", {"web", "worker", "beat"}),
        ("strongroom_gateway", {"gateway"}),
        ("strongroom_keybroker", {"keybroker"}),
        ("redis", {"web", "worker", "beat"}),
        ("redis_gateway", {"gateway"}),
        ("keybroker_token", {"web", "worker", "keybroker"}),
        ("playground_secret", {"web", "gateway"}),
        ("search_key", {"web", "worker"}),
        ("stripe_secret_key", {"web", "worker", "fakestripe"}),
        ("stripe_webhook_secret", {"web", "worker", "fakestripe"}),
    ],
)
def test_each_secret_reaches_its_holders_only(place, secret, expected):
    assert holders(place, place.secrets[secret]) == expected


def test_the_key_store_is_known_to_the_key_broker_alone(place):
    assert holders(place, "KMS_DIR") == {"keybroker"}
    assert holders(place, str(place.home / "keybroker")) == {"keybroker"}


def test_the_schema_is_changed_by_its_owner(place):
    env = environment.for_process(place, "manage")

    assert "strongroom_owner:" in env["STRONGROOM_DATABASE_URL"]


def test_manage_py_gets_what_the_web_has(place):
    web = environment.for_process(place, "web")
    kept = environment.for_env_file(place)

    assert kept == {name: value for name, value in web.items() if name in kept}
    assert "strongroom_app:" in kept["STRONGROOM_DATABASE_URL"]
    assert "PATH" not in kept


def test_a_persons_variables_reach_the_part_they_are_meant_for(place):
    person = {
        **place.person,
        "STRONGROOM_GATEWAY_DEADLINE_S": "7",
        "STRONGROOM_NODE_CACHE_BYTES": "1",
        "STRONGROOM_KEYBROKER_EVIDENCE": "none-dev",
        "STRONGROOM_EMAIL_HOST": "mail",
        "STRONGROOM_TRUSTED_PROXY_COUNT": "1",
        "STRONGROOM_VERSION_BYTES_MAX": "5",
        "STRONGROOM_SANDBOX": "seccomp-only",
        "STRONGROOM_LOG_LEVEL": "DEBUG",
        "STRONGROOM_LOG_FORMAT": "json",
        "STRONGROOM_GATEWAY_METRICS_TOKEN": "m" * 16,
        "STRONGROOM_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=seven",
        "STRONGROOM_METRICS_TOKEN": "t" * 32,
        "STRONGROOM_WORKER_METRICS_LISTEN": "127.0.0.1:9101",
        "STRONGROOM_BEAT_METRICS_LISTEN": "127.0.0.1:9102",
        "STRONGROOM_NODE_METRICS_LISTEN": "127.0.0.1:9103",
        "STRONGROOM_KEYBROKER_METRICS_LISTEN": "127.0.0.1:9104",
        "UNRELATED": "leak",
    }
    chosen = Place(**{**vars(place), "person": person})

    assert holders(chosen, "GATEWAY_DEADLINE_S") == {"gateway"}
    assert holders(chosen, "NODE_CACHE_BYTES") == {"node"}
    assert holders(chosen, "KEYBROKER_EVIDENCE") == {"keybroker"}
    assert holders(chosen, "EMAIL_HOST") == {"web", "worker"}
    assert holders(chosen, "TRUSTED_PROXY_COUNT") == {"web"}
    assert holders(chosen, "VERSION_BYTES_MAX") == {"web", "worker"}
    assert holders(chosen, "SANDBOX") == {"node"}
    assert holders(chosen, "LOG_LEVEL") == set(PROCESSES)
    assert holders(chosen, "LOG_FORMAT") == set(PROCESSES)
    assert holders(chosen, "m" * 16) == {"gateway"}
    ours = {"web", "worker", "beat", "gateway", "keybroker", "node"}
    assert holders(chosen, "http://collector:4318") == ours
    assert holders(chosen, "x-tenant=seven") == ours
    assert holders(chosen, "t" * 32) == ours
    assert holders(chosen, "127.0.0.1:9101") == {"worker"}
    assert holders(chosen, "127.0.0.1:9102") == {"beat"}
    assert holders(chosen, "127.0.0.1:9103") == {"node"}
    assert holders(chosen, "127.0.0.1:9104") == {"keybroker"}
    assert holders(chosen, "leak") == set()
    assert holders(chosen, "/opt/evil") == set()


def test_a_person_cannot_replace_what_is_ours(place):
    person = {
        **place.person,
        "STRONGROOM_GATEWAY_DATABASE_URL": "postgresql://elsewhere",
        "STRONGROOM_NODE_DIR": "/elsewhere",
        "STRONGROOM_KEYBROKER_KMS_DIR": "/elsewhere",
    }
    chosen = Place(**{**vars(place), "person": person})

    assert holders(chosen, "elsewhere") == set()


def test_a_real_stripe_key_takes_the_place_of_the_stand_in(place):
    person = {
        **place.person,
        "STRONGROOM_STRIPE_SECRET_KEY": "sk_test_real",
        "STRONGROOM_STRIPE_WEBHOOK_SECRET_FILE": "/run/secrets/hook",
        "HTTPS_PROXY": "http://proxy",
    }
    chosen = Place(**{**vars(place), "person": person})

    web = environment.for_process(chosen, "web")
    assert web["STRONGROOM_STRIPE_SECRET_KEY"] == "sk_test_real"
    assert web["STRONGROOM_STRIPE_WEBHOOK_SECRET_FILE"] == "/run/secrets/hook"
    assert "STRONGROOM_STRIPE_API_BASE" not in web
    assert holders(chosen, "sk_test_real") == {"web", "worker"}
    assert holders(chosen, "http://proxy") == {"web", "worker"}
    assert chosen.has_real_stripe
    assert not place.has_real_stripe
