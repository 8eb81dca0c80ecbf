"""What the gateway is told from outside, and the limits it keeps.

Limits that an operator may want to move are read from the environment. The others are
named here with their reason; their tests stand at the limit and one past it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from inference.gateway.pool_settings import PoolSettings
from marketplace.core import metrics_listener
from marketplace.core.address import Network, parse_network
from marketplace.core.env import (
    SettingError,
    env_bool,
    env_database_url,
    env_environment,
    env_int,
    env_ratio,
    env_redis_url,
    env_secret,
    env_text,
    env_token,
    env_url,
)

# Larger inputs belong into a file, not into JSON; Triton 2.51 itself has no limit at all.
BODY_BYTES_MAX = 10 * 1024 * 1024
# No tensor has more than 8 axes; the rest is room for the envelope around it.
JSON_DEPTH_MAX = 32
TENSORS_MAX = 32
# One request's texts to embed. They run in batches, one after the other, within one deadline.
EMBEDDING_TEXTS_MAX = 256
# Turns of a conversation. A longer one does not fit into the models' contexts either.
MESSAGES_MAX = 256
# A page of what a program searches for: each result is read by a model that pays for its words.
SEARCH_PAGE_SIZE = 10
SEARCH_PAGE_SIZE_MAX = 50
# Who has not found it so far down searches with other words.
SEARCH_OFFSET_MAX = 1000
# Of a model's card, as a program reads it. Whole ones stand on the page.
CARD_LENGTH_MAX = 16_384
# Of a message: its id, the token of its progress, a cursor. They come back as they were sent.
MESSAGE_ID_LENGTH_MAX = 256
# The list of models has no pages below /openai/v1; clients load it into a menu.
MODELS_LISTED_MAX = 1000
QUERY_FIELDS_MAX = 32
IDEMPOTENCY_KEY_LENGTH_MAX = 255
# A name longer than any that can exist is not looked up.
REFERENCE_LENGTH_MAX = 200
# Proxies of one's own between a caller and here; more are somebody's invention.
PROXIES_PASSED_MAX = 16
TRUSTED_PROXIES_MAX = 100
# Requests without an answer in one process; beyond it a caller waits less elsewhere.
REQUESTS_OPEN_MAX = 4096
# A connection is open for so long without a whole head of a request: before its first one, and
# between two. Clients keep idle connections for 5 s, some for longer, and open others then.
HEAD_WAIT_S = 15
# One head of a request, and what is read ahead of a body.
HEAD_BYTES_MAX = 64 * 1024
# Connections of one process. The server's own default, 1,024, is used up by as many idle ones,
# and nobody else is let in until they have ended.
CONNECTIONS_MAX = 16_384
CONNECTIONS_WAITING_MAX = 4_096
# Files that a process has open besides: to Postgres, to model servers, its own.
FILES_BESIDES = 1_024
# A body has this time, and a second more for so many bytes; the request's deadline ends it too.
BODY_WAIT_S = 10.0
BODY_BYTES_PER_S_MIN = 64 * 1024
# Bodies of one account that are on their way at the same time: most are there with their head,
# and whoever has so many that are not takes the places of all others.
BODIES_PER_ACCOUNT_MAX = 512
# How the server is started, wherever it is.
SERVER_OPTIONS = (
    *("--backlog", str(CONNECTIONS_WAITING_MAX), "--backpressure", str(CONNECTIONS_MAX)),
    *("--http1-header-read-timeout", str(HEAD_WAIT_S * 1000)),
    *("--http1-buffer-size", str(HEAD_BYTES_MAX)),
)
# After an early refusal the rest of the body is thrown away for this long, so that a client
# that is still sending gets to read the answer instead of a broken pipe.
LINGER_S = 2.0
LINGER_BYTES_MAX = 256 * 1024 * 1024

# While nothing comes, a comment keeps a stream open: client libraries give up after 30 s.
KEEP_ALIVE_S = 10.0
# Of all events of a stream. The server underneath takes them as fast as the model writes,
# however slowly the client reads: this much of one stream may lie in memory.
STREAM_BYTES_MAX = 8 * 1024 * 1024

# Of a message over gRPC, side by side: some for each tensor, and room for parameters.
MESSAGE_FIELDS_MAX = 256
# Metadata of a call, the key among it; gRPC counts names, values and 32 bytes for each pair.
GRPC_METADATA_BYTES_MAX = 16 * 1024
# Connections of one process for gRPC, beside those for HTTP.
GRPC_CONNECTIONS_MAX = 2048
# Calls at the same time on one connection; a client queues what is more.
GRPC_CALLS_PER_CONNECTION_MAX = 256
# Streams that are open in one process, busy or not, and how long a client may say nothing on
# one, or read nothing of it.
GRPC_STREAMS_MAX = 1024
GRPC_STREAM_IDLE_S = 300.0
# A connection that nobody uses is closed; one that is used is told to come anew after a while,
# so that callers spread over gateways that were added. What runs on it has some time to end.
GRPC_CONNECTION_IDLE_S = 300.0
GRPC_CONNECTION_AGE_S = 3600.0
GRPC_CONNECTION_GRACE_S = 600.0
GRPC_HANDSHAKE_S = 10.0
# A peer that has vanished is found by asking it; one that asks us more often is sent away.
GRPC_KEEPALIVE_S = 60.0
GRPC_KEEPALIVE_WAIT_S = 20.0
GRPC_PING_INTERVAL_MIN_S = 10.0

DEADLINE_S = 60
# Replicate's own lower limit; below it their clients get an error as well.
CANCEL_AFTER_MIN_S = 5
WAIT_MAX_S = 60
# Clients that send a bare `Prefer: wait` stop reading after 60 s.
WAIT_BARE_S = 55.0
# Clients stop reading when their time is over; the answer must have arrived by then.
WAIT_MARGIN_S = 0.5
# The client of a request is watched once it has taken so long, and so often is looked.
GONE_AFTER_S = 0.05
GONE_SWEEP_S = 0.05
# Another gateway that runs a prediction has given it up and recorded it well within this.
CANCEL_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8)
# How long an answer may wait for its booking while Postgres is away, after the model's work
# is done. A restart of Postgres takes seconds.
SETTLE_WAIT_S = 30
# A hold outlives every prediction that may still be booked on it.
HOLD_MARGIN_S = 30

# What a cache may be old even if no notice of a change came through.
KEY_TTL_S = 30.0
OFFER_TTL_S = 30.0
ROUTES_TTL_S = 5.0
CACHE_ENTRIES_MAX = 50_000

# Versions and replicas that have numbers of their own on the page of metrics. A version costs
# some 150 lines there; the page is put together in the event loop.
OBSERVED_VERSIONS_MAX = 100
OBSERVED_REPLICAS_MAX = 256
# A token that opens the metrics is no word that one can guess.
METRICS_TOKEN_LENGTH_MIN = 16
# Lines of the access log are written together, this often or when there are so many.
ACCESS_FLUSH_S = 0.2
ACCESS_LINES_MAX = 1000
# Of a traced request: a list of texts to embed runs in up to 256 batches.
SPANS_PER_REQUEST_MAX = 64
# Spans that wait for the collector; while it is away the oldest are dropped.
SPANS_WAITING_MAX = 2048
TRACE_EXPORT_S = 2.0
# How long a process that ends waits for its last spans to leave.
TRACE_STOP_S = 2.0

# Calls at a replica whose version takes rows of several requests: one runs, the next is there.
COALESCED_CALLS_MAX = 2
# The same for each place in the largest batch, where every request goes alone.
CALLS_PER_BATCH_PLACE = 2
# Calls that wait for one replica; beyond it a caller waits less elsewhere.
WAITING_MAX = 512
# A call that was given up at its deadline holds its slot until Triton answers, or so long.
ABANDONED_S = 300.0
# What a new measurement of a replica's pace weighs against all before it.
PACE_WEIGHT = 0.2
# One call that took much longer than the others is taken for so many times their pace.
PACE_OUTLIER_FACTOR = 4
# A pace that was measured so long ago, at a replica that has nothing to do, is measured anew.
PACE_TTL_S = 30.0
# The longest that a refused caller is told to wait; clients sleep as long as they are told.
RETRY_AFTER_MAX_S = 60

# While somebody waits for a version that sleeps, Postgres is told so this often; the answer says
# as well whether there is anything to wait for.
WAKE_AGAIN_S = 1.0
# Requests of one process that wait for versions to be loaded, and for one of them. A load takes
# as long as many predictions: more would be a line that nobody at its end is served from.
WAKE_WAITING_MAX = 512
WAKE_WAITING_PER_VERSION_MAX = 128
# Left of a request's time when it is told that the version is still being loaded.
WAKE_MARGIN_S = 0.2
# What a refused caller is told to wait for a version whose load nobody has measured.
WAKE_RETRY_S = 10
# A version that is used is said to be, this often; also one on which something still runs. The
# shortest time after which one is unloaded is twice that.
USE_NOTED_S = 30.0
USE_FLUSH_S = 1.0

# Failures in a row after which a replica is left alone; for how long, doubled each time.
BREAKER_FAILURES = 3
BREAKER_OPEN_S = 1.0
BREAKER_OPEN_MAX_S = 30.0
# A request that tries a replica again is waited for so long before another one may.
BREAKER_TRIAL_S = 5.0
# A server that owes answers and has given none for so long is asked whether it lives, and
# given up if that takes longer than the second. Together they leave time to ask another one.
SILENCE_S = 1.0
ALIVE_WAIT_S = 3.0

# Connections for holds and reads; settles have one of their own.
POOL_SIZE_MAX = 8
POOL_WAIT_S = 5.0
# Postgres ends a statement after `STATEMENT_TIMEOUT_S`; if it does not even answer that, its
# machine is gone and so is the connection.
STATEMENT_TIMEOUT_S = 10
STATEMENT_LIMIT_S = 12.0
# Items of one settle: enough to share a commit, small enough to lock wallets briefly.
SETTLE_BATCH_MAX = 256
# If so many came while a commit ran, the next one waits for more, as long as that one took and
# no longer than this.
GATHER_MIN = 3
GATHER_MAX_S = 0.003
# The same for holds, and how many such statements may run at once.
HOLD_BATCH_MAX = 256
HOLD_STATEMENTS_MAX = 2
# How long a slice of a wallet is drawn on. Others who need it ask for it sooner; should this
# process die, it is missing from the wallet until the hold expires.
HOLD_USE_S = 5.0
# A slice begins with room for so many predictions, and grows while it is used up in a moment.
SLICE_PREDICTIONS_MIN = 16
SLICE_NANOS_MAX = 100 * 10**9
# What is kept of a keyed prediction for its retry; a larger output is booked and not kept.
STORED_OUTPUT_BYTES_MAX = 4 * 1024 * 1024
# Failures that wait to be recorded; more are counted in the log only, holds expire anyway.
FAILURES_WAITING_MAX = 10_000

# Counts of different inputs are merged with those of the other gateways this often.
QUERY_FLUSH_S = 2.0
# Consumers of a model that one process counts, 33 KiB each; who has not come for so long, and of
# too many who came longest ago, is counted from Postgres again.
QUERY_PAIRS_MAX = 1000
QUERY_IDLE_S = 600.0
# Of the inputs of a model that is watched, the share that is kept as embeddings, and how many of
# one consumer in an hour; so many wait for the next flush.
QUERY_SAMPLE_SHARE = 0.05
QUERY_SAMPLES_PER_HOUR_MAX = 60
QUERY_SAMPLES_WAITING_MAX = 500

# Of each version whose drift is watched, and of all together, so many predictions a second are
# counted: some hundredths of a core at most, however many there are.
DRIFT_PER_VERSION_S = 20
DRIFT_PER_S = 200
# Predictions that wait to be counted, and what is held of them; more are not counted.
DRIFT_WAITING_MAX = 64
DRIFT_WAITING_BYTES_MAX = 16 * 1024 * 1024
# Counts are written this often. Those that Postgres did not take wait, so many of them.
DRIFT_FLUSH_S = 60.0
DRIFT_PARTS_MAX = 500
# Versions that one process counts between two flushes.
DRIFT_VERSIONS_MAX = 200

# An account without limits of its own. More than one gateway process can answer, so nobody who
# means well meets it; a runaway client of a large installation does.
ACCOUNT_REQUESTS_PER_MINUTE = 600_000
# Ten rows a request at that rate.
ACCOUNT_UNITS_PER_MINUTE = 6_000_000
# Half of the places of one gateway: an account alone cannot fill it.
ACCOUNT_CONCURRENCY_MAX = REQUESTS_OPEN_MAX // 2
# As `marketplace.models.limits` has it: beyond this the arithmetic would not be exact.
LIMIT_MAX = 100_000_000
# Clients poll a prediction twice a second: 25 of them at once.
READS_PER_MINUTE = 3_000
# Limits are asked for in well under a millisecond; who waits longer keeps them alone.
REDIS_WAIT_MS = 250
# Requests of one such call: Redis does nothing else meanwhile.
LIMITS_PER_CALL_MAX = 256
# Pairs of a caller and an offer, whose limits were looked up. Both are read anew after some
# seconds, and then the old pair is of no use.
PLANS_KEPT_MAX = 4_096
# Keys that read, each with its own count.
READERS_KEPT_MAX = 50_000

IDEMPOTENCY_WINDOW_S = 24 * 3600
# A retry that only its client library marks as one finds what was answered so long ago.
RETRY_WINDOW_S = 60
# A first attempt whose client has gone ends within moments: its retry waits that long for it.
RETRY_WAITS_S = (0.1, 0.2, 0.4)
PAGE_SIZE = 100
# One in a hundred requests shows where time goes, and costs a hundredth.
TRACE_RATIO = 0.01
PLAYGROUND_TTL_S = 120

# Each names a collector of traces; the standard ones are read by the exporter itself.
_COLLECTORS = (
    "STRONGROOM_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The environment of one gateway process."""

    database_url: str = field(repr=False)
    gateway_url: str
    web_url: str
    playground_secret: str = field(repr=False)
    redis_url: str = field(repr=False)
    body_bytes_max: int = BODY_BYTES_MAX
    deadline_s: int = DEADLINE_S
    settle_wait_s: int = SETTLE_WAIT_S
    metrics_token: str = field(default="", repr=False)
    # Where gRPC is spoken, as host:port; nowhere if it is empty.
    grpc_listen: str = ""
    logs_access: bool = False
    # Traces are sent if either our own setting or a standard one names a collector.
    is_traced: bool = False
    otlp_endpoint: str = ""
    trace_ratio: float = TRACE_RATIO
    # 0 is no limit.
    account_requests_per_minute: int = ACCOUNT_REQUESTS_PER_MINUTE
    account_units_per_minute: int = ACCOUNT_UNITS_PER_MINUTE
    account_concurrency_max: int = ACCOUNT_CONCURRENCY_MAX
    reads_per_minute: int = READS_PER_MINUTE
    redis_wait_ms: int = REDIS_WAIT_MS
    # How many gateways share the limits, until Redis has said it.
    gateway_count: int = 1
    # Whose word about where a request comes from is taken.
    trusted_proxies: tuple[Network, ...] = ()
    # Webhooks may go to this machine.
    is_development: bool = False
    # Where this process reaches the site, if not by its address for everybody.
    inner_site_url: str = ""
    pools: PoolSettings = field(default_factory=PoolSettings)

    @property
    def site_url(self) -> str:
        """Where this process reaches the site."""
        return self.inner_site_url or self.web_url

    @property
    def hold_ttl_s(self) -> int:
        """Longer than a prediction can run and wait for its booking, begun in the last moment."""
        return int(HOLD_USE_S) + self.deadline_s + self.settle_wait_s + HOLD_MARGIN_S

    @classmethod
    def from_env(cls) -> GatewayConfig:
        """Read the environment; a missing or wrong value ends the process.

        Raises:
            SettingError: With the name of the variable.
        """
        return cls(
            database_url=env_database_url("STRONGROOM_GATEWAY_DATABASE_URL"),
            gateway_url=env_url("STRONGROOM_GATEWAY_URL"),
            web_url=env_url("STRONGROOM_WEB_URL"),
            playground_secret=env_token("STRONGROOM_PLAYGROUND_SECRET"),
            body_bytes_max=env_int("STRONGROOM_GATEWAY_BODY_BYTES_MAX", BODY_BYTES_MAX, minimum=1),
            deadline_s=env_int("STRONGROOM_GATEWAY_DEADLINE_S", DEADLINE_S, minimum=1),
            settle_wait_s=env_int("STRONGROOM_GATEWAY_SETTLE_WAIT_S", SETTLE_WAIT_S, minimum=1),
            redis_url=env_redis_url("STRONGROOM_REDIS_URL"),
            account_requests_per_minute=_env_limit(
                "STRONGROOM_GATEWAY_ACCOUNT_REQUESTS_PER_MINUTE", ACCOUNT_REQUESTS_PER_MINUTE
            ),
            account_units_per_minute=_env_limit(
                "STRONGROOM_GATEWAY_ACCOUNT_UNITS_PER_MINUTE", ACCOUNT_UNITS_PER_MINUTE
            ),
            account_concurrency_max=_env_limit(
                "STRONGROOM_GATEWAY_ACCOUNT_CONCURRENCY_MAX", ACCOUNT_CONCURRENCY_MAX
            ),
            reads_per_minute=_env_limit(
                "STRONGROOM_GATEWAY_READS_PER_MINUTE", READS_PER_MINUTE, minimum=1
            ),
            redis_wait_ms=env_int("STRONGROOM_GATEWAY_REDIS_WAIT_MS", REDIS_WAIT_MS, minimum=1),
            gateway_count=env_int("STRONGROOM_GATEWAY_COUNT", 1, minimum=1),
            metrics_token=_read_metrics_token(),
            grpc_listen=_read_grpc_listen(),
            logs_access=env_bool("STRONGROOM_GATEWAY_ACCESS_LOG", False),
            is_traced=any(os.environ.get(name) for name in _COLLECTORS),
            otlp_endpoint=_read_otlp_endpoint(),
            trace_ratio=env_ratio("STRONGROOM_OTLP_RATIO", TRACE_RATIO),
            trusted_proxies=_env_networks("STRONGROOM_GATEWAY_TRUSTED_PROXIES"),
            is_development=env_environment() == "development",
            inner_site_url=_read_inner_site_url(),
            pools=PoolSettings.from_env(),
        )


def _read_inner_site_url() -> str:
    name = "STRONGROOM_GATEWAY_SITE_URL"
    return env_url(name) if os.environ.get(name) else ""


def _read_metrics_token() -> str:
    name = "STRONGROOM_GATEWAY_METRICS_TOKEN"
    if not os.environ.get(name) and not os.environ.get(f"{name}_FILE"):
        # The one of all processes, unless the gateways have their own.
        return metrics_listener.read_token()
    token = env_secret(name)
    if len(token) < METRICS_TOKEN_LENGTH_MIN:
        raise SettingError(f"{name} must have at least {METRICS_TOKEN_LENGTH_MIN} characters")
    return token


def _read_grpc_listen() -> str:
    name = "STRONGROOM_GATEWAY_GRPC_LISTEN"
    text = os.environ.get(name, "")
    if not text:
        return ""
    try:
        parts = urlsplit(f"//{text}")
        is_address = bool(parts.hostname and parts.port) and parts.netloc == text
    except ValueError:
        is_address = False
    if not is_address or "@" in text:
        raise SettingError(f"{name} must be host:port, not {text!r}")
    return text


def _read_otlp_endpoint() -> str:
    """Our own setting; empty where a standard one is left to the exporter."""
    return env_url("STRONGROOM_OTLP_ENDPOINT") if os.environ.get("STRONGROOM_OTLP_ENDPOINT") else ""


def _env_limit(name: str, default: int, *, minimum: int = 0) -> int:
    limit = env_int(name, default, minimum=minimum)
    if limit > LIMIT_MAX:
        raise SettingError(f"{name} must be at most {LIMIT_MAX}, not {limit}")
    return limit


def _env_networks(name: str) -> tuple[Network, ...]:
    texts = [text.strip() for text in env_text(name, ",").split(",") if text.strip()]
    if len(texts) > TRUSTED_PROXIES_MAX:
        raise SettingError(f"{name} has at most {TRUSTED_PROXIES_MAX} networks")
    try:
        return tuple(map(parse_network, texts))
    except ValueError as error:
        raise SettingError(f"{name} must be networks such as 10.0.0.0/8: {error}") from None


# Predictions that run later. The longest run, as that of Replicate's models, and the longest wait
# that is still promised: who comes later is told when to come again.
JOB_RUN_MAX_S = 1_800.0
JOB_WAIT_MAX_S = 3_600.0
JOB_LOOK_S = 5
# How often the queue is looked after, by each gateway.
REAP_S = 1.0
# How long a node may be made to wait for a job, and how long it is believed to be one.
CLAIM_WAIT_MAX_S = 30.0
NODE_TTL_S = 5.0
# Of one node: more is no machine.
NODE_SLOTS_MAX = 64
NODE_JOBS_MAX = 64
NODE_VERSIONS_MAX = 1_000
# Files are kept by the site. A form with one: the largest file, and room for what is around it.
FILE_FORM_BYTES_MAX = 513 * 1024 * 1024
# Forms on their way through one process; each holds one of the site's threads for as long.
FILE_RELAYS_MAX = 32
FILE_RELAYS_PER_ACCOUNT_MAX = 4
# For the site to take a connection, and to say something; and for a client to send some more.
FILE_WAIT_S = 30.0
FILE_CHUNK_WAIT_S = 20.0
# A page of a hundred files takes a tenth of it.
FILE_ANSWER_BYTES_MAX = 1024 * 1024
# Batches. Of one, so many lines are in the queue at once: nodes do not run dry between two looks,
# and a batch of 100,000 leaves its account's other work its room and its credit.
BATCH_WINDOW_LINES = 500
# In the queue or over, and not read by the workers yet: while these are away, a batch waits.
BATCH_UNREAD_LINES = 5_000
# One portion. Then another batch has its turn.
BATCH_PORTION_LINES = 100
BATCH_PORTION_S = 10.0
# Far above a portion's time: no other gateway takes a batch meanwhile.
BATCH_LEASE_S = 30.0
BATCH_LOOK_S = 1.0
# How often one that is paused tries whether it may go on, and the longest wait for room.
BATCH_PAUSE_S = 30.0
# Of one append of a node: four pieces of the largest size in which it sends.
OUTPUT_CHUNKS_MAX = 64
OUTPUT_BYTES_MAX = 256 * 1024
# Whoever watches a prediction looks at its row so often, besides what it says; all that are
# watched at a time are looked at together.
WATCH_LOOK_S = 0.5
WATCH_GATHER_S = 0.05
# Where it stands in the queue takes more looking.
WATCH_PLACE_S = 2.0
# Streams of predictions that are watched, of one process and one account there. Each costs looks
# at Redis and Postgres for as long as it is open.
WATCHES_MAX = 512
WATCHES_PER_ACCOUNT_MAX = 32
# A stream that was open for so long ends; its client goes on where it was with a new one, if its
# key is still good for that.
WATCH_AGE_MAX_S = 3_600.0
# Prices of batches that are remembered; one that is not is asked for.
BATCH_PRICES_KEPT_MAX = 1_000
# Of an account that keeps nothing: how often a keyed retry is run again for the price of the first.
# Who lost an answer asks again as often; who asks more would have many answers for one price.
REPEATS_MAX = 3
REPEATS_KNOWN_MAX = 10_000
# Of a file that an input names: it lies in memory on its way to the model, with others beside it.
FILE_INPUT_BYTES_MAX = 16 * 1024 * 1024
# Characters of what a prediction has said so far that its GET shows: clients ask twice a second,
# and who wants all of a long text watches its stream.
OUTPUT_SO_FAR_CHARS_MAX = 64 * 1024
