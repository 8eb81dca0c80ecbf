"""The Dockerfile: clean, without root, without a registry, and with what each command imports."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "k8s/images"
sys.path.insert(0, str(IMAGES))

import check_triton  # noqa: E402 - they lie in a folder that is no package
import list_packages  # noqa: E402
import select_sources  # noqa: E402

TARGETS = ("web", "gateway", "keybroker", "node")
FINAL = ("web", "worker", "gateway", "keybroker", "node-cpu", "node-gpu", "postgres")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Where images and packages come from by default, as a name with a dot before the first slash.
REGISTRY = re.compile(r"(?:[a-z0-9-]+\.)+(?:io|com|org|dev|net)(?::\d+)?/", re.IGNORECASE)
# What each start command runs, as far as it gets without settings: all its imports.
COMMANDS = {
    "web": "import os; os.environ.update(SETTINGS); import django; django.setup();"
    " import marketplace.wsgi, marketplace.celery, marketplace.scheduler, marketplace.__main__;"
    " marketplace.celery.app.loader.import_default_modules();"
    " import marketplace.urls; from django.core.management import call_command;"
    " call_command('check'); import inference.management.commands.make_bucket,"
    " inference.services.bucket, granian.cli",
    "gateway": "import inference.gateway.__main__, inference.gateway.app,"
    " inference.gateway.grpc_server, uvloop, granian.cli",
    "keybroker": "import inference.keybroker.__main__, inference.keybroker.kms.vault,"
    " inference.keybroker.kms.aws",
    "node": "import inference.node.main, inference.serving.digest, tokenizers, onnxruntime",
}
SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "marketplace.settings",
    "STRONGROOM_SECRET_KEY": "s" * 32,
    "STRONGROOM_WEB_URL": "https://site.example",
    "STRONGROOM_GATEWAY_URL": "https://api.example",
    "STRONGROOM_DATABASE_URL": "postgresql:///none",
    "STRONGROOM_REDIS_URL": "redis://none",
}


def lint(text: str) -> list[str]:
    """What hadolint says about a Dockerfile."""
    program = Path(sys.executable).with_name("hadolint")
    assert program.exists(), "hadolint is missing: bin/test installs it from requirements-dev.txt"
    outcome = subprocess.run(
        [program, "--no-color", "-"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not outcome.stderr, outcome.stderr
    return outcome.stdout.splitlines()


def read_stages(text: str) -> dict[str, list[str]]:
    """The instructions of each stage, joined over lines, those of its base before its own."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    stages: dict[str, list[str]] = {}
    name = ""
    for line in filter(None, joined.splitlines()):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            stages[name] = list(stages.get(match[1], []))
        elif name:
            stages[name].append(line)
    return stages


def find_last(stage: list[str], instruction: str) -> str:
    found = [line for line in stage if line.startswith(f"{instruction} ")]
    return found[-1].removeprefix(f"{instruction} ") if found else ""


def find_faults(text: str) -> list[str]:
    """What a final stage does that it should not."""
    stages = read_stages(text)
    faults = []
    for name in FINAL:
        stage = stages[name]
        user, command = find_last(stage, "USER"), find_last(stage, "CMD")
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
            faults.append(f"{name} runs as {user or 'root'}")
        if name != "postgres" and not command.startswith("["):
            faults.append(f"{name} starts through a shell")
        if any(re.match(r"(COPY|ADD) (--\S+ )*\. ", line) for line in stage):
            faults.append(f"{name} copies everything")
        if any(line.startswith("ADD ") for line in stage):
            faults.append(f"{name} fetches")
    if found := REGISTRY.findall(re.sub(r"#.*", "", text)):
        faults.append(f"{found} are registries")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    own = set(stages)
    faults += [f"{base} is fixed" for base in bases if base not in own and "${" not in base]
    given = dict(re.findall(r"^ARG (\w+_IMAGE)=?(\S*)$", text, re.MULTILINE))
    faults += [
        f"{name} has no tag"
        for name, value in given.items()
        if ":" not in value or value.endswith(":latest")
    ]
    return faults


def test_hadolint_has_nothing_to_say() -> None:
    assert lint(DOCKERFILE) == []
    # The control: it says something where there is something to say.
    assert any("DL3002" in line for line in lint(DOCKERFILE.replace("10001:10001", "root")))


def test_the_images_are_closed() -> None:
    assert find_faults(DOCKERFILE) == []
    # What needs no instruction of its own is inherited.
    assert find_last(read_stages(DOCKERFILE)["worker"], "USER") == "10001:10001"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            "USER 10001:10001\nEXPOSE 8443",
            "EXPOSE 8443",
            ["keybroker runs as root"],
        ),
        ("USER 999:999", "USER postgres", ["postgres runs as postgres"]),
        (
            'CMD ["python", "-m", "inference.gateway"]',
            "CMD python -m inference.gateway",
            ["gateway starts through a shell"],
        ),
        (
            "COPY --from=sources /selected/keybroker /app",
            "COPY . /app",
            ["keybroker copies everything"],
        ),
        ("=python:3.11-slim-bookworm", "=python", ["PYTHON_IMAGE has no tag"]),
        (
            "=postgres:18-bookworm",
            "=registry.example.com/postgres:18",
            ["['registry.example.com/'] are registries"],
        ),
        ("FROM runtime AS gateway", "FROM alpine:3 AS gateway", ["alpine:3 is fixed"]),
    ],
)
def test_what_is_open_is_found(before: str, after: str, expected: list[str]) -> None:
    assert before in DOCKERFILE
    assert set(expected) <= set(find_faults(DOCKERFILE.replace(before, after)))


def test_every_target_starts_what_it_is_named_for() -> None:
    stages = read_stages(DOCKERFILE)
    commands = {name: find_last(stages[name], "CMD") for name in FINAL}

    assert commands == {
        "web": '["python", "-m", "marketplace", "web"]',
        "worker": '["python", "-m", "marketplace", "worker"]',
        "gateway": '["python", "-m", "inference.gateway"]',
        "keybroker": '["python", "-m", "inference.keybroker"]',
        "node-cpu": '["tini", "--", "python", "-m", "inference.node"]',
        "node-gpu": '["tini", "--", "python3", "-m", "inference.node"]',
        "postgres": "",
    }


def test_the_context_has_what_is_copied_and_nothing_that_is_secret() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    stages = read_stages(DOCKERFILE)
    copied = {
        source.rstrip("/")
        for stage in stages.values()
        for line in stage
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }

    assert "*" in lines
    assert {source for source in copied if not _is_below(source, allowed)} == set()
    for path in (".env", "var/secrets.json", "k8s/compose/secrets/secret_key", ".git/config"):
        assert not _is_below(path, allowed - {"k8s"}), path
    assert "k8s/*" in lines


def _is_below(path: str, folders: set[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


@functools.cache
def select(target: str) -> select_sources.Selection:
    return select_sources.select(target)


def copy_selected(target: str, folder: Path) -> Path:
    """The image's /app."""
    for path in select(target).files:
        (folder / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)
    return folder


def link_packages(names: list[str], folder: Path) -> Path:
    """The image's site-packages: the files of some distributions and no others."""
    folder.mkdir()
    for name in names:
        distribution = importlib.metadata.distribution(name)
        tops = {path.parts[0] for path in distribution.files or () if path.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            place = folder / top
            if not place.exists():
                place.symlink_to(Path(str(distribution.locate_file(top))))
    return folder


def run_in(app: Path, packages: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run with these two folders and Python's own modules only."""
    return subprocess.run(
        [sys.executable, "-P", "-S", "-c", code.replace("SETTINGS", repr(SETTINGS))],
        env={"PYTHONPATH": f"{app}:{app}/sdk:{packages}", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=app,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def read_list(target: str) -> list[str]:
    lines = (IMAGES / f"packages/{target}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.fixture(scope="module", params=TARGETS)
def image(request, tmp_path_factory) -> tuple[str, Path, Path]:
    """A target, its /app and its site-packages."""
    target = str(request.param)
    folder = tmp_path_factory.mktemp(target)
    app = copy_selected(target, folder / "app")
    return target, app, link_packages(read_list(target), folder / "packages")


def test_the_command_finds_everything_that_it_imports(image) -> None:
    target, app, packages = image

    outcome = run_in(app, packages, COMMANDS[target])
    assert outcome.returncode == 0, outcome.stderr


LOST = {
    "web": ("marketplace/services/catalog.py", "django_htmx"),
    "gateway": ("inference/broker/output.lua", "psycopg_pool"),
    "keybroker": ("inference/node_certificate.py", "hvac"),
    "node": ("inference/triton/server.py", "psutil"),
}


def test_what_is_lost_is_found(image) -> None:
    target, app, packages = image
    source, package = LOST[target]
    for path in (app / source, packages / package):
        moved = path.with_name(f"{path.name}.away")
        path.rename(moved)
        outcome = run_in(app, packages, COMMANDS[target])
        moved.rename(path)
        assert outcome.returncode != 0, path
        assert path.stem in outcome.stderr, path


def test_the_start_commands_run_as_far_as_their_settings(image) -> None:
    target, app, packages = image
    module, arguments, variable = {
        "web": ("marketplace", ["web"], "STRONGROOM_SECRET_KEY"),
        "gateway": ("inference.gateway", [], "STRONGROOM_GATEWAY_DATABASE_URL"),
        "keybroker": ("inference.keybroker", [], "STRONGROOM_KEYBROKER_KMS"),
        "node": ("inference.node", [], "STRONGROOM_NODE_DIR"),
    }[target]
    code = f"import runpy, sys; sys.argv[1:] = {arguments}; runpy.run_module('{module}', {{}}, "
    outcome = run_in(app, packages, code + "'__main__')")

    assert outcome.returncode == 2, outcome.stderr
    assert f"{variable} is not set" in outcome.stderr


def test_images_have_no_code_that_is_not_theirs() -> None:
    files = {
        target: {str(path) for path in select_sources.select(target).files} for target in TARGETS
    }

    def folders(target: str) -> set[str]:
        return {"/".join(Path(path).parts[:2]) for path in files[target] if path.endswith(".py")}

    assert folders("keybroker") == {
        *("inference/keybroker", "inference/__init__.py", "inference/errors.py"),
        *("inference/node_certificate.py", "marketplace/core", "marketplace/__init__.py"),
        "sdk/strongroom",
    }
    for target in ("gateway", "node"):
        assert not folders(target) & {"marketplace/services", "marketplace/models"}, target
        assert not folders(target) & {"inference/keybroker", "inference/services"}, target
    assert not folders("node") & {"inference/gateway", "billing/services"}
    assert not folders("web") & {"inference/gateway", "inference/keybroker", "inference/node"}
    # Migrations read them, and no module stands beside them.
    assert {"billing/sql/ledger.sql", "templates/base.html"} <= files["web"]


def test_the_serving_code_of_a_node_is_the_one_that_gets_keys(image) -> None:
    target, app, packages = image
    if target != "node":
        assert not (app / "inference/serving").exists()
        return
    command = "from inference.serving.digest import compute_loader_digest as d; print(d())"
    here = subprocess.run(
        [sys.executable, "-m", "inference.serving.digest"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run_in(app, packages, command).stdout == here.stdout
    (app / "inference/serving/landlock.py").write_text("")
    assert run_in(app, packages, command).stdout != here.stdout


def test_the_lists_of_packages_are_those_that_are_needed() -> None:
    for target in TARGETS:
        names = list_packages.list_packages(target, select(target).outside)
        written = (IMAGES / f"packages/{target}.txt").read_text()
        assert written == list_packages.render(names), "run k8s/images/list_packages.py"
    pinned = list_packages.read_pinned(ROOT)
    assert {name for target in TARGETS for name in read_list(target)} <= pinned.keys()
    # The control: something that nothing pinned brings.
    with pytest.raises(list_packages.PackageError, match="no_such_module"):
        list_packages.list_packages("gateway", {"no_such_module"})


def test_the_key_broker_has_no_web_framework_and_the_node_no_database_pool() -> None:
    assert not {"django", "celery", "stripe", "numpy", "torch"} & set(read_list("keybroker"))
    assert not {"django", "celery", "stripe", "torch"} & set(read_list("gateway"))
    assert not {"django", "celery", "stripe", "redis"} & set(read_list("node"))
    assert "torch" not in read_list("web")


def test_a_lost_module_stops_the_selection(tmp_path: Path) -> None:
    for path in select("keybroker").files:
        (tmp_path / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / path)
    assert select_sources.select("keybroker", tmp_path).files
    (tmp_path / "inference/node_certificate.py").unlink()
    with pytest.raises(select_sources.SelectionError, match="node_certificate"):
        select_sources.select("keybroker", tmp_path)


@pytest.mark.parametrize(
    ("version", "fault"),
    [
        ("26.07", ""),
        ("26.10", ""),
        ("27.01", ""),
        ("26.06", "too old"),
        ("25.12", "too old"),
        ("2.51.0", "none of NVIDIA's"),
        ("", "none of NVIDIA's"),
    ],
)
def test_an_old_triton_is_refused(version: str, fault: str) -> None:
    found = check_triton.find_fault({check_triton.VARIABLE: version})

    assert (fault in found) if fault else found == ""
