"""A model is sealed and pushed from the dashboard: whole, after a reload, never when in doubt."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from onnx import TensorProto, helper
from playwright.sync_api import Browser, Page, Request, Route, expect

from strongroom.config import ConfigFolder
from strongroom.sealing import floe, wrap
from strongroom.sealing.manifest import Manifest
from strongroom.sealing.wrap import WrappedKey
from tests.e2e.conftest import DESKTOP, TIMEOUT_MS, SignIn
from tests.e2e.test_main_job import X, Y, write_model
from tests.faults import find_faults
from tests.stack import Stack

PAGE = "/dashboard/push?account=demo"
PART = re.compile(r"/api/uploads/[^/]+/files/(\d+)/parts/(\d+)$")
ONBOARDED_WITHIN_S = 600
RESTING = {"in_review", "failed", "refused"}


@dataclass
class Pusher:
    """A person at the page, and what leaves the browser.

    Args:
        page: Signed in as the creator.
        folder: Where the person's files are.
    """

    page: Page
    folder: Path
    sent: list[tuple[int, int]] = field(default_factory=list)
    arrived: list[tuple[int, int]] = field(default_factory=list)
    posted: dict[str, Any] = field(default_factory=dict)
    stuck: list[Route] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._note)
        self.page.on("requestfinished", self._note_arrived)

    def _note(self, request: Request) -> None:
        if found := PART.search(request.url):
            self.sent.append((int(found[1]), int(found[2])))
        elif request.method == "POST" and "/api/" in request.url:
            self.posted[request.url.rpartition("/")[2]] = request.post_data_json

    def _note_arrived(self, request: Request) -> None:
        if found := PART.search(request.url):
            self.arrived.append((int(found[1]), int(found[2])))

    def open(self) -> None:
        self.page.goto(PAGE)
        expect(self.page.locator("#not-started")).to_be_hidden()

    def set_up(self) -> Path:
        """Save the recovery file and confirm it, with the keyboard; where it was saved."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Save the recovery file").press("Enter")
        path = self.folder / "config" / "identity.json"
        path.parent.mkdir(exist_ok=True)
        download.value.save_as(path)
        path.chmod(0o600)
        self.page.get_by_label("The recovery file is saved").press("Space")
        self.page.get_by_role("button", name="Continue").press("Enter")
        expect(self.page.locator("#setup")).to_be_hidden()
        return path

    def choose(self, root: Path) -> None:
        self.page.set_input_files("#folder", root)

    def fill(self, name: str) -> None:
        for label, text in {
            "Name": name,
            "Title": "Pushed from a browser",
            "Task": "regression",
            "Licence": "MIT",
            "Dollars per prediction": "0.002",
        }.items():
            self.page.get_by_label(label, exact=True).fill(text)

    def push(self) -> None:
        self.page.locator("#listing-push").press("Enter")

    def hold(self, *parts: tuple[int, int]) -> None:
        """Let these parts get stuck on their way."""

        def handle(route: Route) -> None:
            found = PART.search(route.request.url)
            assert found is not None
            if (int(found[1]), int(found[2])) in parts:
                self.stuck.append(route)
            else:
                route.continue_()

        self.page.route(PART, handle)

    def let_go(self) -> None:
        self.page.unroute(PART)
        self.stuck.clear()

    def refused_with(self, code: str) -> str:
        """What the page says once it stopped with this code."""
        expect(self.page.locator("#stopped-code")).to_have_text(code)
        expect(self.page.locator("#stopped")).to_be_visible()
        return self.page.locator("#stopped").inner_text()


@pytest.fixture
def pusher(sign_in: SignIn, tmp_path: Path) -> Pusher:
    made = Pusher(sign_in("creator"), tmp_path)
    made.open()
    return made


@pytest.fixture
def call(stack: Stack) -> Iterator[Callable[[str], Any]]:
    """What the API tells the creator."""
    token = stack.demo["creator"]["api_token"]
    with httpx.Client(
        base_url=stack.demo["web_url"], headers={"Authorization": f"Bearer {token}"}
    ) as client:
        yield lambda path: client.get(path).raise_for_status().json()


def wait_onboarded(call: Callable[[str], Any], version_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + ONBOARDED_WITHIN_S
    while (version := call(f"/api/versions/{version_id}"))["state"] not in RESTING:
        assert time.monotonic() < deadline, version
        time.sleep(0.5)
    return version


def make_tiny(folder: Path) -> Path:
    root = folder / "model"
    root.mkdir()
    write_model(root)
    return root


def make_many(folder: Path) -> Path:
    """Write y = x + w, with w in five files: five parts besides the graph's."""
    root = folder / "many"
    root.mkdir()
    tensors = []
    for index in range(5):
        w = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[1024])
        w.data_location = TensorProto.EXTERNAL
        w.external_data.add(key="location", value=f"w{index}.bin")
        (root / f"w{index}.bin").write_bytes(bytes([0, 0, 0, index]) * 1024)
        tensors.append(w)
    names = ["x", *(f"s{index}" for index in range(4)), "y"]
    nodes = [
        helper.make_node("Add", [names[index], f"w{index}"], [names[index + 1]])
        for index in range(5)
    ]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1024])]
        for name in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "many", *values, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (root / "model.onnx").write_bytes(made.SerializeToString())
    return root


def new_name() -> str:
    return f"pushed-{secrets.token_hex(3)}"


# --- The whole way ----------------------------------------------------------------


@pytest.mark.timeout(1_900)
def test_a_model_is_sealed_pushed_and_onboarded(pusher: Pusher, call, tmp_path: Path) -> None:
    page = pusher.page
    assert find_faults(page) == []
    expect(page.get_by_text("No folder chosen")).to_be_visible()
    pusher.choose(make_tiny(tmp_path))
    expect(page.locator("#listing-push")).to_be_disabled()
    identity = pusher.set_up()
    pusher.fill(new_name())
    page.get_by_text("Test vectors and policy").click()
    vectors = [{"input": {"x": X}, "expected": {"y": Y}, "tolerance": 1e-6}]
    page.get_by_label("Test vectors", exact=True).fill(json.dumps(vectors))
    assert find_faults(page) == []

    # A fault of the interface is found before anything is sent.
    interface = page.get_by_label("Interface", exact=True)
    good = interface.input_value()
    interface.fill(good.replace("FP32", "FP7", 1))
    pusher.push()
    assert "/interface/inputs/0/datatype" in pusher.refused_with("interface_invalid")
    assert "uploads" not in pusher.posted
    interface.fill(good)
    pusher.push()
    page.wait_for_url("**/panels/onboarding/*")

    version = wait_onboarded(call, page.url.rpartition("/")[2])
    assert version["state"] == "in_review", version
    steps = {step["name"]: step["state"] for step in version["steps"]}
    assert [steps[one] for one in ("verify", "validate", "load", "test")] == ["succeeded"] * 4

    # The recovery file alone, as the command line reads it, opens what was sealed.
    kept = ConfigFolder(identity.parent).load_identity()
    complete = pusher.posted["complete"]
    manifest = Manifest.parse(complete["manifest"])
    own = next(one for one in complete["wrapped_keys"] if one["recipient"] == "creator")
    assert own["kid"] == kept.recovery_kid
    dek = wrap.unwrap_dek(
        WrappedKey.parse(own), kept.recovery_key, artifact_id=manifest.artifact_id
    )
    for file in manifest.files:
        floe.Message.open(dek, manifest.file_aad(file), file.floe_header)
    assert manifest.test_vectors[0].tolerance == 1e-6
    assert pusher.posted["uploads"]["suites"] == ["hpke-x25519-sha256-aes256gcm"]


@pytest.mark.timeout(1_900)
def test_a_reload_in_the_middle_costs_only_what_was_on_its_way(
    pusher: Pusher, call, tmp_path: Path
) -> None:
    page, name = pusher.page, new_name()
    root = make_many(tmp_path)
    pusher.set_up()
    pusher.choose(root)
    pusher.fill(name)
    pusher.hold((3, 0), (4, 0), (5, 0))
    pusher.push()
    expect(page.locator("#running-bytes")).not_to_have_text("")
    # Not wait_for_function: what it polls with is code from text, which the page forbids.
    while page.locator("#running-bar").evaluate("bar => bar.value") <= 0:
        page.wait_for_timeout(50)
    # What is on its way when the page goes would be sent again, and rightly so.
    while len(pusher.stuck) < 3 or len(pusher.arrived) < 3:
        page.wait_for_timeout(50)

    # It can be stopped for a while, and goes on.
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.locator("#running-phase")).to_have_text("Paused")
    assert find_faults(page) == []
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    assert sorted(pusher.sent) == [(one, 0) for one in range(6)]
    pusher.sent.clear()
    pusher.let_go()

    expect(page.get_by_text("An upload was interrupted.")).to_be_visible()
    assert find_faults(page) == []
    # The listing is what it was; nobody types it again.
    pusher.choose(root)
    expect(page.get_by_label("Name", exact=True)).to_have_value(name)
    page.get_by_role("button", name="Go on with the upload").press("Enter")
    page.wait_for_url("**/panels/onboarding/*")

    assert sorted(pusher.sent) == [(3, 0), (4, 0), (5, 0)]
    version = wait_onboarded(call, page.url.rpartition("/")[2])
    assert version["state"] == "in_review", version
    assert version["version"] == 1


def test_a_changed_source_starts_over(pusher: Pusher, call, tmp_path: Path) -> None:
    page, name = pusher.page, new_name()
    root = make_many(tmp_path)
    pusher.set_up()
    pusher.choose(root)
    pusher.fill(name)
    pusher.hold((5, 0))
    pusher.push()
    while not pusher.stuck or len(pusher.arrived) < 5:
        page.wait_for_timeout(50)
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    pusher.sent.clear()
    pusher.let_go()

    # Size and time of change lie; what was sent is read again.
    changed = root / "w0.bin"
    before = changed.stat()
    changed.write_bytes(bytes([1]) * before.st_size)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    pusher.choose(root)
    page.get_by_role("button", name="Go on with the upload").press("Enter")
    page.wait_for_url("**/panels/onboarding/*")

    assert sorted(pusher.sent) == [(one, 0) for one in range(6)]
    versions = call(f"/api/models/demo/{name}/versions")["results"]
    assert [one["version"] for one in versions] == [2, 1]
    assert versions[1]["state"] == "failed"


def test_an_upload_can_be_given_up(pusher: Pusher, call, tmp_path: Path) -> None:
    page, name = pusher.page, new_name()
    pusher.set_up()
    pusher.choose(make_tiny(tmp_path))
    pusher.fill(name)
    pusher.hold((0, 0))
    pusher.push()
    while not pusher.stuck:
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Give up …").press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert find_faults(page) == []
    page.get_by_role("button", name="Keep it").press("Enter")
    page.get_by_role("button", name="Give up …").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Give up").press("Enter")

    expect(page.get_by_text("The upload was given up.")).to_be_visible()
    expect(page.locator("#interrupted")).to_be_hidden()
    [version] = call(f"/api/models/demo/{name}/versions")["results"]
    assert version["state"] == "failed"


# --- What is refused --------------------------------------------------------------


def test_a_folder_that_could_never_be_served_is_refused_at_once(
    pusher: Pusher, tmp_path: Path
) -> None:
    root = make_tiny(tmp_path)
    (root / "weights.pkl").write_bytes(b"\x80\x04.")
    (root / "code.py").write_text("import os\n")
    pusher.choose(root)

    text = pusher.refused_with("python_file_refused")

    assert "weights.pkl: A pickle runs code when it is opened." in text
    assert "(pickle_refused)" in text
    assert find_faults(pusher.page) == []
    expect(pusher.page.locator("#listing")).to_be_hidden()


def test_another_platform_key_stops_the_push(pusher: Pusher, tmp_path: Path) -> None:
    pusher.set_up()
    pusher.page.evaluate(
        """async () => {
          const request = indexedDB.open("strongroom-push");
          await new Promise((done) => { request.onsuccess = done; });
          const keys = request.result.transaction("keys", "readwrite").objectStore("keys");
          const put = keys.put(new Uint8Array(32), "platform");
          await new Promise((done) => { put.onsuccess = done; });
        }"""
    )
    pusher.page.reload()

    text = pusher.refused_with("platform_key_changed")

    assert text.count("SHA256:") == 2
    expect(pusher.page.locator("#started")).to_be_hidden()


def test_a_key_that_the_platform_did_not_sign_is_sealed_nothing(
    pusher: Pusher, tmp_path: Path
) -> None:
    pusher.set_up()
    pusher.choose(make_tiny(tmp_path))
    pusher.fill(new_name())

    def swap(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        stranger = wrap.derive_public_key(wrap.generate_private_key())
        body["kem"]["public_key"] = wrap.encode_base64(stranger)
        route.fulfill(response=answer, json=body)

    pusher.page.route("**/uploads", swap)
    pusher.push()

    assert "Nothing was sealed to it." in pusher.refused_with("platform_signature_invalid")
    assert pusher.sent == []
    assert "complete" not in pusher.posted


def test_a_browser_without_the_ciphers_says_what_to_do(stack: Stack, sign_in: SignIn) -> None:
    page = sign_in("creator")
    page.add_init_script("crypto.subtle.generateKey = () => Promise.reject(new Error('none'));")
    page.goto(PAGE)

    expect(page.locator("#unsupported")).to_contain_text("This browser cannot seal models.")
    expect(page.locator("#unsupported")).to_contain_text("strongroom push ./model")
    expect(page.locator("#unsupported")).to_be_visible()
    expect(page.locator("#started")).to_be_hidden()
    assert find_faults(page) == []


# --- Pinned scripts ---------------------------------------------------------------


@pytest.fixture
def faulty_page(stack: Stack, browser: Browser, sign_in: SignIn) -> Iterator[Page]:
    """Signed in; errors in its console are the point."""
    state = sign_in("creator").context.storage_state()
    context = browser.new_context(
        base_url=stack.demo["web_url"], viewport=DESKTOP, storage_state=state
    )
    context.set_default_timeout(TIMEOUT_MS)
    yield context.new_page()
    context.close()


def change(page: Page, name: str, more: str = "\nglobalThis.changed = true;\n") -> None:
    """Have the network serve another script than the pinned one."""

    def handle(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text() + more)

    page.route(f"**/static/js/push/{name}", handle)


@pytest.mark.parametrize("name", ["push.js", "floe.js", "upload.js"])
def test_a_changed_script_is_not_run(faulty_page: Page, name: str) -> None:
    errors: list[str] = []
    faulty_page.on("console", lambda message: errors.append(message.text))
    change(faulty_page, name)
    faulty_page.goto(PAGE)

    expect(faulty_page.get_by_text("This page has not started.")).to_be_visible()
    expect(faulty_page.locator("#started")).to_be_hidden()
    assert faulty_page.evaluate("globalThis.changed") is None
    assert any("integrity" in text and name in text for text in errors)


def test_a_changed_worker_seals_nothing(faulty_page: Page, tmp_path: Path) -> None:
    pusher = Pusher(faulty_page, tmp_path)
    change(faulty_page, "worker.js", "")
    pusher.open()
    pusher.set_up()
    pusher.choose(make_tiny(tmp_path))
    # The control: the same bytes pass, and one more does not.
    faulty_page.unroute("**/static/js/push/worker.js")
    change(faulty_page, "worker.js", "\n")
    pusher.fill(new_name())
    pusher.push()

    assert "Nothing was sealed" in pusher.refused_with("code_changed")
    assert pusher.posted == {}


def test_the_page_makes_no_code_and_asks_no_stranger(faulty_page: Page) -> None:
    faulty_page.goto(PAGE)
    expect(faulty_page.locator("#not-started")).to_be_hidden()
    attempts = {
        # Not at once: what a test runs itself may do more.
        "eval": """new Promise((done, fail) => setTimeout(() => {
          try { done(eval("1")); } catch (error) { fail(error); }
        }))""",
        "worker": "new Worker(URL.createObjectURL(new Blob(['1'])))",
        "html": "document.body.innerHTML = '<p>'",
        "policy": "trustedTypes.createPolicy('another', {})",
        "import": "import('/static/js/app.js')",
        "fetch": "fetch('https://strongroom.example/')",
    }

    for name, attempt in attempts.items():
        outcome = faulty_page.evaluate(
            f"async () => {{ try {{ await ({attempt}); return 'done'; }} "
            "catch (error) { return error.name; } }"
        )
        assert outcome != "done", name
    outcome = faulty_page.evaluate(
        """async () => {
          const script = document.createElement("script");
          script.type = "module";
          const heard = new Promise((done) => { script.onload = script.onerror = done; });
          try { script.src = "/static/js/push/api.js?more"; } catch (error) { return error.name; }
          document.head.append(script);
          return (await heard).type;
        }"""
    )
    assert outcome == "TypeError"
