"""Tasks reach our own broker from every process and thread, under the names that beat knows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from django.conf import settings

from inference import tasks
from inference.services import onboarding
from marketplace.celery import app


def test_beats_schedule_names_tasks_that_exist():
    app.loader.import_default_modules()

    for entry in app.conf.beat_schedule.values():
        # A worker that was away does not find a heap of the same errand.
        assert entry["options"]["expires"] <= entry["schedule"]
        if entry["task"].startswith("inference."):
            assert entry["task"] in app.tasks
    assert "inference.advance_onboarding" in app.tasks


def test_a_task_asked_for_in_any_thread_goes_to_our_broker():
    found = []

    def look() -> None:
        task = tasks.advance_onboarding
        found.append((task.app.main, task.app.conf.broker_url))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()

    assert found == [("strongroom", settings.REDIS_URL)]


def test_the_web_process_knows_our_broker_without_being_told():
    # As granian does it: import the application, then serve from threads.
    code = """
import threading
import marketplace.wsgi
from inference import tasks
thread = threading.Thread(target=lambda: print(tasks.advance_onboarding.app.main))
thread.start()
thread.join()
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "PYTHONPATH": ":".join(sys.path),
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
    }

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "strongroom"


def test_what_is_asked_for_lies_in_redis(redis_client, transactional_db):
    version_id = "0190f000-0000-7000-8000-000000000000"

    onboarding.enqueue(version_id)

    assert redis_client.llen("celery") == 1
