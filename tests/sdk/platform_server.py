"""A small platform for tests of the command line: the upload endpoints as the contract
has them, in memory, on loopback. It checks what a real platform checks of an upload and
can open what it received, so that a test sees whether a push arrived.
"""

import hashlib
import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.manifest import Manifest, check_files
from strongroom.sealing.suite import X25519
from strongroom.sealing.wrap import WrappedKey

TOKEN = "srt_test_token_that_must_not_leak"
PASSWORD = "correct horse"
API_KEY = "sk_live_test"
NEW_KEY = "sk_live_newnewnewnewnewnewnewnewnewnewnewnewn"
EXPIRES = "2026-11-22T03:42:00Z"
STEPS = ("verify", "validate", "load", "test", "benchmark", "review", "publish")


def succeed(signer, public_key, **changes):
    """A statement of one key about the next; changes are made after it is signed."""
    statement = {
        "kid": wrap.derive_kid(public_key),
        "public_key": encode_base64(public_key),
        "created_at": EXPIRES,
    }
    payload = signature.platform_key_payload(**statement)
    signed = signature.sign(signer, signature.PLATFORM_KEY_TYPE, payload)
    return statement | {"signature": encode_base64(signed)} | changes


class RefusalError(Exception):
    def __init__(self, status, code, detail="Refused.", **members):
        super().__init__(code)
        self.status, self.body = status, {"code": code, "detail": detail, **members}


class Platform:
    """State of the platform, and switches that make it misbehave."""

    def __init__(self):
        self.signing_key = signature.generate_signing_key()
        self.successions = []
        # The code that a login needs besides the password; None for none.
        self.second_factor = None
        self.kem_keys = {}
        self.uploads = {}
        self.versions = {}
        self.release_logs = {}
        self.receipts = {}
        self.receipt_keys = {}
        self.receipt_batches = []
        self.payouts = {"results": [], "next_cursor": None, "obstacle": None}
        self.payout_documents = {}
        self.models = {}
        self.prices = {}
        self.signing_keys = {}
        self.channels = {}
        self.keys = []
        self.predictions = []
        # How the prediction that runs later is seen, one look after the other.
        self.jobs = []
        # The tag of each prediction; None for none.
        self.tags = []
        self.withdrawn = []
        self.shredded = []
        self.requests = []
        self.bodies = []
        self.onboarding = []
        # Faults: called with (method, path) before the request is answered. "cut" closes
        # the connection without an answer, "cut_after" does the work first.
        self.fault = lambda method, path: None
        # How many bytes of a downloaded part are sent before the connection is cut.
        self.cut_part_at = None
        self.ranges = []
        self.revoked = set()
        self.forge_kem = False
        self.suite = X25519
        self.lock = threading.Lock()

    def page_batches(self, after):
        """Two batches at a time, so that there is more than one page."""
        found = [one for one in self.receipt_batches if one["seq"] > after][:2]
        return {"results": found, "next_after": found[-1]["seq"] if len(found) == 2 else None}

    @property
    def public_key(self):
        return signature.derive_public_key(self.signing_key)

    @property
    def fingerprint(self):
        return signature.fingerprint(self.public_key)

    def rotate(self):
        """A new key, named by the one before it."""
        old, self.signing_key = self.signing_key, signature.generate_signing_key()
        self.successions.append(succeed(old, self.public_key))

    # --- Endpoints ----------------------------------------------------------------

    def get_platform(self):
        key = {
            "kid": "platform-1",
            "public_key": encode_base64(self.public_key),
            "fingerprint": self.fingerprint,
            "successions": self.successions,
        }
        return 200, {
            "name": "Test",
            "web_url": self.url,
            "gateway_url": self.url,
            "platform_key": key,
            "limits": {"part_size_bytes": floe.PART_BYTES, "max_files": 64},
        }

    def login(self, body):
        if body["password"] != PASSWORD:
            raise RefusalError(401, "unauthenticated", "The email or the password is wrong.")
        if self.second_factor and body.get("code") != self.second_factor:
            code = "unauthenticated" if "code" in body else "second_factor_required"
            raise RefusalError(401, code, "A code is needed as well.")
        return 201, {"token": TOKEN, "account": "acme", "email": body["email"]}

    def get_me(self):
        account = {"slug": "acme", "name": "Acme", "role": "owner"}
        return 200, {
            "email": "ada@example.com",
            "accounts": [account, {"slug": "lab", "name": "Lab", "role": "member"}],
            "token": {"name": "cli", "scopes": []},
        }

    def put_model(self, model, body):
        if body["title"] == "refused":
            raise RefusalError(
                422,
                "validation",
                "The request is not valid.",
                errors=[{"pointer": "/title", "detail": "Choose another."}],
            )
        self.models[model] = body
        return 200, body

    def put_price(self, model, body):
        self.prices[model] = body["nanos_per_prediction"]
        return 200, body

    def post_signing_key(self, body):
        public_key = decode_base64(body["public_key"], size_bytes=32)
        name = signature.fingerprint(public_key)
        self.signing_keys[name] = public_key
        return 200, {"id": "1", "fingerprint": name}

    def begin_upload(self, model, body):
        check_files(body["files"])
        if body["signing_key"] not in self.signing_keys:
            raise RefusalError(422, "signing_key_unknown")
        upload_id, version_id = str(uuid.uuid4()), str(uuid.uuid4())
        private_key = wrap.generate_private_key(self.suite)
        public_key = encode_base64(wrap.derive_public_key(private_key, self.suite))
        fields = {
            "kid": wrap.derive_kid(decode_base64(public_key)),
            "suite": self.suite.name,
            "public_key": public_key,
            "expires_at": EXPIRES,
        }
        payload = signature.upload_key_payload(
            upload_id=upload_id, artifact_id=version_id, **fields
        )
        key = signature.generate_signing_key() if self.forge_kem else self.signing_key
        signed = signature.sign(key, signature.UPLOAD_KEY_TYPE, payload)
        self.kem_keys[version_id] = private_key
        self.versions[version_id] = {
            "id": version_id,
            "model": model,
            "version": len(self.versions) + 1,
            "state": "uploading",
            "created_at": EXPIRES,
            "channels": [],
            "steps": [],
            "certificate": None,
            "refusal_reason": "",
        }
        self.uploads[upload_id] = {
            "upload_id": upload_id,
            "version_id": version_id,
            "version": self.versions[version_id]["version"],
            "state": "open",
            "expires_at": EXPIRES,
            "kem": fields | {"signature": encode_base64(signed)},
            "files": body["files"],
            "signing_key": body["signing_key"],
            "received": {},
        }
        answer = self.describe_upload(upload_id) | {"part_size_bytes": floe.PART_BYTES}
        return 201, answer

    def find_upload(self, upload_id, *states):
        upload = self.uploads.get(upload_id)
        if upload is None:
            raise RefusalError(404, "not_found")
        if states and upload["state"] not in states:
            raise RefusalError(409, "upload_closed")
        return upload

    def describe_upload(self, upload_id):
        upload = self.find_upload(upload_id)
        parts = [
            {"file": file, "part": part, "size_bytes": len(data), "sha256": sha256}
            for (file, part), (sha256, data) in sorted(upload["received"].items())
        ]
        names = ("upload_id", "version_id", "version", "state", "expires_at", "kem")
        return {name: upload[name] for name in names} | {"parts": parts}

    def put_part(self, upload_id, file, part, data, sha256):
        upload = self.find_upload(upload_id, "open")
        sizes = floe.PRODUCTION.part_sizes(upload["files"][file]["cipher_size_bytes"])
        if len(data) != sizes[part]:
            raise RefusalError(422, "size_mismatch")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise RefusalError(422, "hash_mismatch")
        upload["received"][file, part] = (sha256, data)
        return 200, {"size_bytes": len(data), "sha256": sha256}

    def abort(self, upload_id):
        self.find_upload(upload_id, "open")["state"] = "aborted"
        return 204, None

    def complete(self, upload_id, body):
        upload = self.find_upload(upload_id, "open")
        manifest = Manifest.parse(body["manifest"])
        signature.verify(
            self.signing_keys[upload["signing_key"]],
            signature.MANIFEST_TYPE,
            body["manifest"].encode(),
            decode_base64(body["signature"]),
        )
        promised = [
            (index, number, part.sha256, part.size_bytes)
            for index, file in enumerate(manifest.files)
            for number, part in enumerate(file.parts)
        ]
        received = [
            (*key, sha256, len(data)) for key, (sha256, data) in sorted(upload["received"].items())
        ]
        if promised != received or manifest.artifact_id != upload["version_id"]:
            raise RefusalError(422, "parts_mismatch")
        upload |= {
            "state": "complete",
            "manifest": manifest,
            "text": body["manifest"],
            "signature": body["signature"],
            "wraps": body["wrapped_keys"],
        }
        version = self.versions[upload["version_id"]]
        version["state"] = "onboarding"
        version["steps"] = [{"name": name, "state": "pending", "reason_code": ""} for name in STEPS]
        return 202, version

    def find_pushed(self, model, number):
        """The finished upload of a version by its number."""
        for upload in self.uploads.values():
            version = self.versions[upload["version_id"]]
            if (version["model"], str(upload["version"])) == (model, number):
                if not upload["received"]:
                    raise RefusalError(410, "ciphertext_gone", "It was deleted.")
                return upload
        raise RefusalError(404, "not_found")

    def get_artifact(self, model, number):
        upload = self.find_pushed(model, number)
        return 200, {
            "version_id": upload["version_id"],
            "manifest": upload["text"],
            "signature": upload["signature"],
            "signing_key": {
                "public_key": encode_base64(self.signing_keys[upload["signing_key"]]),
                "fingerprint": upload["signing_key"],
            },
            "wrapped_keys": [one for one in upload["wraps"] if one["recipient"] == "creator"],
        }

    def get_part(self, model, number, file, part, wanted):
        data = self.find_pushed(model, number)["received"][int(file), int(part)][1]
        if wanted is None:
            return 200, data
        first = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.ranges.append(first)
        return 206, data[first:]

    def list_signing_keys(self):
        results = [
            {
                "id": str(index),
                "fingerprint": name,
                "state": "revoked" if name in self.revoked else "trusted",
                "created_at": "2026-11-21T03:42:17.000000Z",
                "registered_by": "user:ada@example.com",
                "last_used_for": "acme/digits:1",
            }
            for index, name in enumerate(self.signing_keys)
        ]
        return 200, {"results": results}

    def revoke_signing_key(self, key_id):
        name = list(self.signing_keys)[int(key_id)]
        self.revoked.add(name)
        return 200, {"id": key_id, "fingerprint": name, "state": "revoked"}

    def get_version(self, version_id):
        """Each look moves onboarding one step on, by what the test put into the queue."""
        version = self.versions[version_id]
        if self.onboarding and version["state"] == "onboarding":
            self.onboarding.pop(0)(version)
        return 200, version

    def withdraw(self, model, number):
        self.withdrawn.append((model, number))
        return 200, {"model": model, "version": number, "state": "withdrawn"}

    def shred(self, model, number, body):
        name = f"{model}:{number}" if number else model
        if body["confirm"] != name:
            raise RefusalError(422, "confirmation_missing", f"Confirm with {name}.")
        if number and (model, int(number)) not in self.withdrawn:
            raise RefusalError(409, "version_state", f"{name} is approved; withdraw it first.")
        self.shredded.append((name, body["reason"]))
        return 200, {
            "kek_refs": ["model-1"],
            "provider": "aws",
            "at": "2026-11-21T03:42:17.000000Z",
            "final_at": "2026-11-28T03:42:17.000000Z",
            "reason": body["reason"],
        }

    def create_key(self, body):
        key = {
            "id": f"k{len(self.keys) + 1}",
            "scopes": ["predict", "read"],
            "expires_at": None,
            **body,
            "prefix": NEW_KEY[:12],
            "revoked_at": None,
            "last_used_at": None,
            "created_at": "2026-11-21T03:42:17.000000Z",
        }
        self.keys.append(key)
        return key

    def find_key(self, key_id):
        found = [key for key in self.keys if key["id"] == key_id]
        if not found:
            raise RefusalError(404, "not_found")
        return found[0]

    def change_key(self, key_id, body):
        self.find_key(key_id).update(body)
        return 200, self.find_key(key_id)

    def show_spend(self, key_id):
        key = self.find_key(key_id)
        budgets = {period: key.get(f"budget_{period}_nanos") for period in ("day", "total")}
        results = [
            {"period": period, "budget_nanos": nanos, "spent_nanos": nanos // 4, "held_nanos": 0}
            for period, nanos in budgets.items()
            if nanos
        ]
        return 200, {"results": results}

    def predict(self, model, body, headers):
        self.predictions.append((model, body, headers.get("Idempotency-Key")))
        self.tags.append(headers.get("Strongroom-Tag"))
        if model == "acme/broken":
            raise RefusalError(503, "model_not_ready", "Loading.", retry_after_s=0)
        output = {"echo": body["input"]}
        if model == "acme/voice":
            output = {"speech": "data:audio/wav;base64,UklGRg==", "seconds": 1.5}
        done = {
            "id": "abcdefghijklmnopqrstuvwxyz",
            "model": model,
            "status": "succeeded",
            "output": output,
            "metrics": {"cost_nano_usd": 500_000},
        }
        if headers.get("Prefer") != "respond-async":
            return 201, done
        waits = {"status": "starting", "output": None, "metrics": {"cost_nano_usd": 0}}
        looks = [
            {"stage": "queued", "position": 2, "eta_s": 7.4},
            {"stage": "queued", "position": 2, "eta_s": 7.4},
            {"stage": "running"},
        ]
        self.jobs = [done | waits | {"progress": one} for one in looks] + [done]
        return 202, self.jobs[0]

    def show_job(self, prediction_id):
        if not self.jobs or self.jobs[0]["id"] != prediction_id:
            raise RefusalError(404, "not_found", "There is none.")
        return 200, self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]

    def cancel_job(self, prediction_id):
        self.show_job(prediction_id)
        self.jobs = [self.jobs[-1] | {"status": "canceled", "output": None}]
        return 200, self.jobs[0]

    # --- What tests look at -------------------------------------------------------

    def open_upload(self, upload_id):
        """Path to plain bytes, opened as a node would."""
        upload = self.uploads[upload_id]
        manifest = upload["manifest"]
        wrapped = next(one for one in upload["wraps"] if one["recipient"] == "platform")
        dek = wrap.unwrap_dek(
            WrappedKey.parse(wrapped),
            self.kem_keys[manifest.artifact_id],
            artifact_id=manifest.artifact_id,
        )
        plain = {}
        for index, file in enumerate(manifest.files):
            message = floe.Message.open(dek, manifest.file_aad(file), file.floe_header)
            out = bytearray(file.plain_size_bytes)
            parts = [upload["received"][index, part][1] for part in range(len(file.parts))]
            floe.decrypt_into(message, out, parts, threads=2)
            plain[file.path] = bytes(out)
        return plain, bytes(dek)

    def sent_parts(self):
        return [path for method, path in self.requests if method == "PUT" and "/parts/" in path]


ROUTES = [
    ("GET", r"/api/platform", lambda p, m, b, r: p.get_platform()),
    ("POST", r"/api/login", lambda p, m, b, r: p.login(b)),
    ("GET", r"/api/me", lambda p, m, b, r: p.get_me()),
    ("PUT", r"/api/models/([^/]+/[^/]+)", lambda p, m, b, r: p.put_model(m[1], b)),
    ("PUT", r"/api/models/([^/]+/[^/]+)/price", lambda p, m, b, r: p.put_price(m[1], b)),
    ("POST", r"/api/signing-keys", lambda p, m, b, r: p.post_signing_key(b)),
    ("GET", r"/api/signing-keys\?account=.+", lambda p, m, b, r: p.list_signing_keys()),
    ("DELETE", r"/api/signing-keys/([^/]+)", lambda p, m, b, r: p.revoke_signing_key(m[1])),
    (
        "GET",
        r"/api/models/([^/]+/[^/]+)/versions/(\d+)/artifact",
        lambda p, m, b, r: p.get_artifact(m[1], m[2]),
    ),
    (
        "GET",
        r"/api/models/([^/]+/[^/]+)/versions/(\d+)/artifact/files/(\d+)/parts/(\d+)",
        lambda p, m, b, r: p.get_part(m[1], m[2], m[3], m[4], r.headers.get("Range")),
    ),
    ("POST", r"/api/models/([^/]+/[^/]+)/uploads", lambda p, m, b, r: p.begin_upload(m[1], b)),
    ("GET", r"/api/uploads/([^/]+)", lambda p, m, b, r: (200, p.describe_upload(m[1]))),
    ("DELETE", r"/api/uploads/([^/]+)", lambda p, m, b, r: p.abort(m[1])),
    ("POST", r"/api/uploads/([^/]+)/complete", lambda p, m, b, r: p.complete(m[1], b)),
    (
        "GET",
        r"/api/versions/([^/]+)/release-log",
        lambda p, m, b, r: (200, p.release_logs[m[1]]),
    ),
    (
        "GET",
        r"/api/predictions/([^/]+)/receipt",
        lambda p, m, b, r: (200, p.receipts[m[1]]),
    ),
    ("GET", r"/api/payouts\?account=(.+)", lambda p, m, b, r: (200, p.payouts)),
    (
        "GET",
        r"/api/payouts/([^/]+)/document",
        lambda p, m, b, r: (200, p.payout_documents[m[1]]),
    ),
    ("GET", r"/api/receipt-keys", lambda p, m, b, r: (200, p.receipt_keys)),
    (
        "GET",
        r"/api/receipt-batches\?after=(\d+)",
        lambda p, m, b, r: (200, p.page_batches(int(m[1]))),
    ),
    ("GET", r"/api/versions/([^/]+)", lambda p, m, b, r: p.get_version(m[1])),
    (
        "GET",
        r"/api/models/([^/]+/[^/]+)/versions",
        lambda p, m, b, r: (200, {"results": list(p.versions.values())}),
    ),
    (
        "PUT",
        r"/api/models/([^/]+/[^/]+)/channels/([^/]+)",
        lambda p, m, b, r: (200, p.channels.setdefault((m[1], m[2]), b)),
    ),
    (
        "POST",
        r"/api/models/([^/]+/[^/]+)/versions/(\d+)/withdraw",
        lambda p, m, b, r: p.withdraw(m[1], int(m[2])),
    ),
    (
        "POST",
        r"/api/models/([^/]+/[^/]+)(?:/versions/(\d+))?/shred",
        lambda p, m, b, r: p.shred(m[1], m[2], b),
    ),
    ("GET", r"/api/keys\?account=(.+)", lambda p, m, b, r: (200, {"results": p.keys})),
    (
        "POST",
        r"/api/keys",
        lambda p, m, b, r: (201, p.create_key(b) | {"key": NEW_KEY}),
    ),
    ("GET", r"/api/keys/([^/]+)", lambda p, m, b, r: (200, p.find_key(m[1]))),
    ("PATCH", r"/api/keys/([^/]+)", lambda p, m, b, r: p.change_key(m[1], b)),
    ("GET", r"/api/keys/([^/]+)/spend", lambda p, m, b, r: p.show_spend(m[1])),
    ("DELETE", r"/api/keys/([^/]+)", lambda p, m, b, r: (204, p.keys.clear())),
    (
        "POST",
        r"/v1/models/([^/]+/[^/]+)/predictions",
        lambda p, m, b, r: p.predict(m[1], b, r.headers),
    ),
    (
        "POST",
        r"/v1/predictions",
        lambda p, m, b, r: p.predict(b["version"], b, r.headers),
    ),
    ("GET", r"/v1/predictions/([^/]+)", lambda p, m, b, r: p.show_job(m[1])),
    ("POST", r"/v1/predictions/([^/]+)/cancel", lambda p, m, b, r: p.cancel_job(m[1])),
]
PUBLIC = ("/api/platform", "/api/login")
PART = re.compile(r"/api/uploads/([^/]+)/files/(\d+)/parts/(\d+)")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Headers and body in one packet, or each answer waits for Nagle.

    def log_message(self, *_):
        pass

    def handle_one(self):
        platform = self.server.platform
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with platform.lock:
            platform.requests.append((self.command, self.path))
            platform.bodies.append(data)
        fault = platform.fault(self.command, self.path)
        if fault == "cut":
            self.close_connection = True
            return
        try:
            status, answer = self.route(platform, data)
        except RefusalError as refusal:
            status, answer = refusal.status, refusal.body
        if fault == "cut_after":
            self.close_connection = True
            return
        is_part = isinstance(answer, bytes)
        body = b"" if answer is None else answer if is_part else json.dumps(answer).encode()
        self.send_response(status)
        kind = "application/problem+json" if status >= 400 else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if isinstance(answer, dict) and "retry_after_s" in answer:
            self.send_header("Retry-After", str(answer["retry_after_s"]))
        self.end_headers()
        if is_part and platform.cut_part_at is not None:
            body, platform.cut_part_at = body[: platform.cut_part_at], None
            self.close_connection = True
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_one  # noqa: N815 - http.server's names

    def route(self, platform, data):
        wanted = API_KEY if self.path.startswith("/v1/") else TOKEN
        is_known = self.headers.get("Authorization") == f"Bearer {wanted}"
        if self.path not in PUBLIC and not is_known:
            raise RefusalError(401, "unauthenticated", "A valid key is required.")
        if self.command == "PUT" and (found := PART.fullmatch(self.path)):
            sha256 = self.headers["X-Part-SHA256"]
            return platform.put_part(found[1], int(found[2]), int(found[3]), data, sha256)
        body = json.loads(data) if data else None
        for method, pattern, call in ROUTES:
            found = re.fullmatch(pattern, self.path)
            if found and method == self.command:
                with platform.lock:
                    return call(platform, found, body, self)
        raise RefusalError(404, "not_found")


class Server:
    def __enter__(self):
        self.platform = Platform()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.platform = self.platform
        self.platform.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()
        return self.platform

    def __exit__(self, *_):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()
