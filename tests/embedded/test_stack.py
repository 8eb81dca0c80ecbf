import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from embedded import environment
from embedded.environment import ROOT
from tests.stack import ANY_PORTS
from tests.stack import environment as persons_environment

pytestmark = pytest.mark.stack


def environ(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


def run_up(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [ROOT / "bin" / "up", *map(str, arguments)],
        env=persons_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def predict(stack) -> httpx.Response:
    demo = stack.demo
    model = demo["models"][0]
    return httpx.post(
        f"{demo['gateway_url']}/v1/models/{model['name']}/predictions",
        headers={"Authorization": f"Bearer {demo['consumer']['api_key']}"},
        json={"input": model["example_input"]},
        timeout=30,
    )


def test_demo_json_says_where_everything_is(stack):
    demo = stack.demo

    assert (stack.home / "demo.json").stat().st_mode & 0o777 == 0o600
    assert set(demo) == {
        "web_url",
        "gateway_url",
        "creator",
        "consumer",
        "admin",
        "models",
        "nodes",
    }
    assert set(demo["creator"]) == {"email", "password", "api_token"}
    assert set(demo["consumer"]) == {"email", "password", "api_key"}
    assert set(demo["admin"]) == {"email", "password"}
    assert [model["name"] for model in demo["models"]] == [
        "demo/digits",
        "demo/file-type",
        "demo/sentence-embeddings",
        "demo/speech",
        "demo/smollm2",
    ]
    (node,) = demo["nodes"]
    # What is unloaded and comes back has another name in Triton; these are never idle.
    for model in demo["models"]:
        if model["name"] != "demo/speech":
            ready = httpx.get(f"{node['triton_http']}/v2/models/{model['triton_name']}/ready")
            assert ready.status_code == 200


def test_the_line_to_paste_works(stack):
    (line,) = [text for text in stack.text().splitlines() if text.startswith("curl ")]

    outcome = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)

    answer = json.loads(outcome.stdout)
    assert answer["status"] == "succeeded"
    assert answer["output"]["digit"]["label"] == "4"


def test_its_start_ends_with_a_prediction(stack):
    lines = stack.text().splitlines()
    said = [line for line in lines if "demo/digits: a held-out 4 is read as 4" in line]

    assert len(said) == 1
    [pasted] = [line for line in lines if line.startswith("curl ")]
    assert lines.index(said[0]) < lines.index(pasted)


def test_no_secret_stands_in_a_log(stack):
    demo = stack.demo
    secrets = [*json.loads((stack.home / "secrets.json").read_text()).values()]
    secrets += [demo[role]["password"] for role in ("creator", "consumer", "admin")]
    secrets += [demo["creator"]["api_token"], demo["consumer"]["api_key"]]
    secrets += [(stack.home / "node" / "join-token").read_text().strip()]
    logs = {path.name: path.read_text() for path in (stack.home / "logs").iterdir()}
    assert len(logs) >= 10

    assert {(name, at) for name, text in logs.items() for at in secrets if at in text} == set()


def test_running_parts_hold_only_their_own_credentials(stack):
    node, gateway = environ(stack.pid_of("node")), environ(stack.pid_of("gateway"))
    broker, web = environ(stack.pid_of("keybroker")), environ(stack.pid_of("web"))

    assert [name for name, value in node.items() if "postgresql://" in value] == []
    assert [name for name, value in gateway.items() if "postgresql://" in value] == [
        "STRONGROOM_GATEWAY_DATABASE_URL"
    ]
    assert "STRONGROOM_KEYBROKER_KMS_DIR" in broker
    assert "strongroom_keybroker:" not in json.dumps(web)
    assert "KMS" not in json.dumps(web)


def test_plain_weights_are_nowhere_in_the_home(stack):
    for path in stack.home.rglob("*"):
        assert path.suffix not in (".onnx", ".safetensors", ".gguf"), path


def test_a_second_start_on_this_home_is_refused(stack):
    outcome = run_up("--home", stack.home, *ANY_PORTS)

    assert outcome.returncode == 2
    expected = f"the home {stack.home} is in use by process {stack.process.pid}"
    assert outcome.stderr == f"bin/up: {expected}\n"


@pytest.mark.parametrize("way", ["variable", "option"])
def test_manage_py_works_against_the_running_home(stack, way):
    variable = {"STRONGROOM_HOME": str(stack.home)} if way == "variable" else {}
    option = ["--home", stack.home] if way == "option" else []
    outcome = subprocess.run(
        [ROOT / ".venv" / "bin" / "python", ROOT / "manage.py", "ledger_check", *option],
        env={**persons_environment(), **variable},
        capture_output=True,
        text=True,
        check=False,
    )

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_mail_for_a_new_password_stands_in_the_webs_log(stack):
    demo = stack.demo
    email = demo["consumer"]["email"]
    with httpx.Client(base_url=demo["web_url"], follow_redirects=True) as visitor:
        visitor.get("/password-reset")
        body = {"email": email, "csrfmiddlewaretoken": visitor.cookies["csrftoken"]}
        assert visitor.post("/password-reset", data=body).status_code == 200

        log = stack.home / "logs" / "web.log"
        deadline = time.monotonic() + 10
        while not (links := re.findall(rf"{demo['web_url']}/password-reset/\S+", log.read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        page = visitor.get(links[-1])

    assert f"To: {email}" in log.read_text()
    assert page.status_code == 200
    assert "Set the password" in page.text


@pytest.mark.parametrize(
    "part", ["web", "gateway", "keybroker", "worker", "beat", "fakestripe", "redis", "postgres"]
)
def test_a_killed_part_comes_back(stack, part):
    before = stack.pid_of(part)

    os.kill(before, signal.SIGKILL)
    stack.wait_ready(part, before)

    deadline = time.monotonic() + 60
    while (answer := predict(stack)).status_code not in (200, 201):
        assert answer.status_code in (500, 502, 503), answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


def test_a_killed_node_comes_back_with_its_models(stack):
    before = stack.pid_of("node")

    os.kill(before, signal.SIGKILL)
    stack.wait_ready("node", before)

    deadline = time.monotonic() + 120
    while predict(stack).status_code not in (200, 201):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_every_part_is_in_the_table_of_environments(stack):
    # What runs is what the tests of the environments speak of.
    for part in ("web", "worker", "beat", "gateway", "keybroker", "node", "fakestripe"):
        assert part in environment._TABLE
        assert stack.pid_of(part) in stack.pids
