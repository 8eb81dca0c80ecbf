"""Real workers and a real beat: what they count is what happened, and who may see it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from celery import Celery

from embedded import ports
from marketplace import worker_metrics
from marketplace.core.metrics_listener import TOKEN_LENGTH_MIN

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "s" * TOKEN_LENGTH_MIN
START_TIMEOUT_S = 25
# Tasks of the product, with one that fails, one that takes too long and one that dies.
PROGRAM = """
import os, signal, time
from marketplace.celery import app

@app.task(name="t.good")
def good(): pass

@app.task(name="t.bad")
def bad(): raise ValueError("password=hunter2")

@app.task(name="t.slow", time_limit=1)
def slow(): time.sleep(60)

@app.task(name="t.dies", acks_late=False)
def dies(): os.kill(os.getpid(), signal.SIGKILL)

@app.task(name="t.again", bind=True)
def again(self):
    if not self.request.retries:
        raise self.retry(countdown=0)
"""


def run(arguments, env, log):
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "celery", *arguments],
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "marketplace.settings", **env},
            cwd=ROOT, stdout=file, stderr=file,
        )  # fmt: skip


def scrape(port, token=TOKEN):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def wait_for(look, log):
    ends_at = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            found = look()
            if found:
                return found
        except OSError:
            pass
        assert time.monotonic() < ends_at, log.read_text()[-3000:]
        time.sleep(0.2)


def count(page, name, **labels):
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    found = re.search(rf"^{re.escape(f'{name}{{{inner}}}')} (\S+)$", page, re.MULTILINE)
    return None if found is None else float(found[1])


@pytest.fixture
def worker(redis_url, tmp_path):
    (tmp_path / "told.py").write_text(PROGRAM)
    port, log = ports.choose(), tmp_path / "worker.log"
    process = run(
        ["--app", "told:app", "worker", "--concurrency", "1", "--without-gossip",
         "--without-mingle", "--queues", "told"],
        {
            "STRONGROOM_REDIS_URL": redis_url,
            "STRONGROOM_METRICS_TOKEN": TOKEN,
            "STRONGROOM_WORKER_METRICS_LISTEN": f"127.0.0.1:{port}",
            "PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'sdk'}",
        },
        log,
    )  # fmt: skip
    yield port, log
    process.terminate()
    process.wait(60)


def test_a_worker_counts_how_its_tasks_end(worker, redis_url):
    port, log = worker
    page = wait_for(lambda: scrape(port), log)
    # All are there before the first has ended.
    for outcome in worker_metrics.OUTCOMES:
        for task in ("t.good", "marketplace.note_worker"):
            assert count(page, "strongroom_worker_tasks_total", task=task, outcome=outcome) == 0
    sender = Celery("sender", broker=redis_url)
    sender.conf.task_ignore_result = True
    for name in ("good", "good", "bad", "again", "slow", "dies"):
        sender.send_task(f"t.{name}", queue="told")
    sender.send_task("t.good", queue="told", expires=-5)

    wanted = {
        ("good", "success"): 2, ("good", "expired"): 1, ("bad", "failure"): 1,
        ("again", "retry"): 1, ("again", "success"): 1, ("slow", "timeout"): 1,
        ("dies", "lost"): 1,
    }  # fmt: skip

    def read():
        page = scrape(port)
        return page, {
            key: count(page, "strongroom_worker_tasks_total", task=f"t.{key[0]}", outcome=key[1])
            for key in wanted
        }

    try:
        wait_for(lambda: read()[1] == wanted, log)
    except AssertionError:
        assert read()[1] == wanted
        raise
    page, _ = read()
    assert count(page, "strongroom_worker_task_duration_seconds_count", task="t.good") == 2
    assert count(page, "strongroom_worker_tasks_started_total", task="t.good") == 2
    for task, outcome in (("good", "failure"), ("bad", "success"), ("slow", "success")):
        assert count(page, "strongroom_worker_tasks_total", task=f"t.{task}", outcome=outcome) == 0
    assert "hunter2" not in page
    for wrong in ("", "x" * TOKEN_LENGTH_MIN):
        with pytest.raises(urllib.error.HTTPError) as refused:
            scrape(port, wrong)
        assert refused.value.code == 401


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("STRONGROOM_WORKER_METRICS_LISTEN", "9101", "worker"),
        ("STRONGROOM_BEAT_METRICS_LISTEN", "host:none", "beat"),
        ("STRONGROOM_METRICS_TOKEN", "short", "beat"),
    ],
)
def test_a_wrong_setting_stops_it_with_its_name(tmp_path, redis_url, variable, value, part):
    log = tmp_path / "log"
    process = run(
        ["--app", "marketplace.celery", part], {"STRONGROOM_REDIS_URL": redis_url, variable: value},
        log,
    )  # fmt: skip

    assert process.wait(START_TIMEOUT_S) != 0
    assert f"{variable} must" in log.read_text()


def test_an_address_that_is_taken_stops_it(tmp_path, redis_url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        log = tmp_path / "log"
        process = run(
            ["--app", "marketplace.celery", "worker", "--pool", "solo"],
            {"STRONGROOM_REDIS_URL": redis_url, "STRONGROOM_WORKER_METRICS_LISTEN": address},
            log,
        )
        assert process.wait(START_TIMEOUT_S) != 0
    assert "STRONGROOM_WORKER_METRICS_LISTEN: " in log.read_text()


@pytest.mark.django_db(transaction=True)
def test_beat_tells_of_itself_and_of_the_platform(redis_url, database_urls, tmp_path):
    port, log = ports.choose(), tmp_path / "beat.log"
    process = run(
        ["--app", "marketplace.celery", "beat", "--schedule", str(tmp_path / "s"),
         "--pidfile", ""],
        {
            "STRONGROOM_REDIS_URL": redis_url,
            # As the role that beat has in production: it must be able to read all of it.
            "STRONGROOM_DATABASE_URL": database_urls["app"],
            "STRONGROOM_METRICS_TOKEN": TOKEN,
            "STRONGROOM_BEAT_METRICS_LISTEN": f"127.0.0.1:{port}",
        },
        log,
    )  # fmt: skip
    try:
        name = "strongroom_beat_tasks_sent_total"
        page = wait_for(
            lambda: (
                (page := scrape(port))
                and (count(page, name, task="inference.send_webhooks") or 0) >= 1
                and page
            ),
            log,
        )
    finally:
        process.terminate()
        process.wait(60)
    parts = dict(
        re.findall(r'^strongroom_platform_part_up\{part="(\w+)"\} (\d)$', page, re.MULTILINE)
    )
    assert len(parts) == 10
    assert set(parts.values()) == {"1"}, log.read_text()[-2000:]
    sent_at = re.search(r"^strongroom_beat_last_sent_timestamp_seconds (\S+)$", page, re.MULTILINE)
    assert float(sent_at[1]) == pytest.approx(time.time(), abs=120)
    assert "redis://" not in page
