"""Django settings. Every value that differs between places comes from the environment."""

from __future__ import annotations

import logging.config
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from csp.constants import NONE, SELF

from marketplace.core.env import (
    PORT_MAX,
    SettingError,
    env_bool,
    env_database_url,
    env_environment,
    env_int,
    env_redis_url,
    env_secret,
    env_text,
    env_url,
)
from marketplace.core.logs import read_level
from marketplace.core.metrics_listener import read_listen, read_token
from marketplace.core.spans import Spans

BASE_DIR = Path(__file__).resolve().parent.parent

ENVIRONMENT = env_environment()
DEBUG = False  # Also in development: the error pages are part of the product.
DEVELOPMENT = ENVIRONMENT == "development"
SECRET_KEY = env_secret("STRONGROOM_SECRET_KEY")
WEB_URL = env_url("STRONGROOM_WEB_URL")
GATEWAY_URL = env_url("STRONGROOM_GATEWAY_URL")
ALLOWED_HOSTS = [urlparse(WEB_URL).hostname or "localhost"]
# Names by which gateways and nodes reach this site from within, past the proxy in front.
INNER_HOSTS = env_text("STRONGROOM_WEB_INNER_HOSTS", ",").replace(" ", "").split(",")
if wrong_hosts := [
    host for host in INNER_HOSTS if host and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", host)
]:
    raise SettingError(f"STRONGROOM_WEB_INNER_HOSTS has no host names: {wrong_hosts}")
ALLOWED_HOSTS += [host for host in INNER_HOSTS if host]
if DEVELOPMENT:
    ALLOWED_HOSTS += ["127.0.0.1", "localhost"]
CSRF_TRUSTED_ORIGINS = [WEB_URL]

INSTALLED_APPS = [
    "marketplace.admin_site.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django_htmx",
    "csp",
    "rest_framework",
    "drf_spectacular",
    "marketplace.apps.MarketplaceConfig",
    "inference.apps.InferenceConfig",
    "billing.apps.BillingConfig",
]

MIDDLEWARE = [
    # First: it times all that is below, and answers scrapes whatever name they call the site.
    "marketplace.web_metrics.MetricsMiddleware",
    "marketplace.middleware.RequestIdMiddleware",
    "marketplace.guard.HeadersMiddleware",
    "marketplace.middleware.CompressMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "marketplace.middleware.SessionPageMiddleware",
    "marketplace.guard.GuardMiddleware",
    "marketplace.middleware.ProblemMiddleware",
    # Inside of it, so that what it refuses becomes a page or problem+json.
    "marketplace.see_as.SeeAsMiddleware",
]

ROOT_URLCONF = "marketplace.urls"
WSGI_APPLICATION = "marketplace.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "marketplace.context.site",
            ],
        },
    },
]


def database(url: str) -> dict[str, object]:
    """Django's settings of a postgresql:// URL."""
    parts = urlparse(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": 5,
            # A machine that was lost says no goodbye: without these its connections would hold
            # each thread that uses one for a quarter of an hour.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
        },
        "ATOMIC_REQUESTS": False,
    }


DATABASES = {"default": database(env_database_url("STRONGROOM_DATABASE_URL"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env_redis_url("STRONGROOM_REDIS_URL")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "web",
    }
}

AUTH_USER_MODEL = "marketplace.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "marketplace:login"
LOGIN_REDIRECT_URL = "marketplace:home"
LOGOUT_REDIRECT_URL = "marketplace:catalogue"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = WEB_URL.startswith("https://")
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# Browsers take such a cookie from this host alone, and over https alone.
_COOKIE_PREFIX = "__Host-" if SESSION_COOKIE_SECURE else ""
SESSION_COOKIE_NAME = f"{_COOKIE_PREFIX}sessionid"
CSRF_COOKIE_NAME = f"{_COOKIE_PREFIX}csrftoken"
DEVICE_COOKIE_NAME = f"{_COOKIE_PREFIX}device"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
# Whether admins are admins only after a second factor, and whether people confirm their
# address before they push, publish or make live keys. Off in development, where the demo's
# people sign in by their passwords.
STAFF_SECOND_FACTOR = env_bool("STRONGROOM_STAFF_SECOND_FACTOR", default=not DEVELOPMENT)
REQUIRE_VERIFIED_EMAIL = env_bool("STRONGROOM_REQUIRE_VERIFIED_EMAIL", default=not DEVELOPMENT)
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_SSL_REDIRECT = False  # The proxy in front redirects; see docs/operations.md.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if not DEVELOPMENT else None
SECURE_HSTS_SECONDS = 31_536_000 if WEB_URL.startswith("https://") else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = bool(SECURE_HSTS_SECONDS)
SECURE_HSTS_PRELOAD = bool(SECURE_HSTS_SECONDS)
X_FRAME_OPTIONS = "DENY"
# How many proxies of ours stand in front of the web; their X-Forwarded-For entries are
# believed, earlier ones are not. Limits count by the address found so.
TRUSTED_PROXY_COUNT = env_int("STRONGROOM_TRUSTED_PROXY_COUNT", 0)

STRIPE_SECRET_KEY = env_secret("STRONGROOM_STRIPE_SECRET_KEY", "unset")
STRIPE_WEBHOOK_SECRET = env_secret("STRONGROOM_STRIPE_WEBHOOK_SECRET", "unset")
STRIPE_API_BASE = env_text("STRONGROOM_STRIPE_API_BASE", "") if DEVELOPMENT else ""
# What one admin may move by hand in a day, and what one alone may call explained; above, a
# second one has to agree. Never above $1,000, whatever stands here.
ADJUSTMENT_ALONE_MAX_CENTS = env_int("STRONGROOM_ADJUSTMENT_ALONE_MAX_CENTS", 10_000)
# Whether Stripe works out tax on payment pages; it needs registrations there first.
STRIPE_TAX = env_bool("STRONGROOM_STRIPE_TAX", default=False)

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        # Sounds that models answer stand in the page itself.
        "media-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        # A form that ends on a page of Stripe's is checked along its redirects.
        "form-action": [SELF, STRIPE_API_BASE]
        if STRIPE_API_BASE
        else [SELF, "https://checkout.stripe.com", "https://connect.stripe.com"],
        "object-src": [NONE],
    }
}

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Development serves the files where they lie; production, what `collectstatic` put there.
WHITENOISE_USE_FINDERS = DEVELOPMENT
STATIC_ROOT = (
    None if DEVELOPMENT else env_text("STRONGROOM_STATIC_ROOT", str(BASE_DIR / "static-collected"))
)
OBJECTS_DIR = env_text("STRONGROOM_OBJECTS_DIR", str(BASE_DIR / "var" / "objects"))
OBJECT_BUCKET = env_text("STRONGROOM_OBJECT_BUCKET", "none")
# Where the store of that bucket is, if not where the AWS SDK looks by itself.
OBJECT_ENDPOINT = (
    env_url("STRONGROOM_OBJECT_ENDPOINT") if env_text("STRONGROOM_OBJECT_ENDPOINT", "") else None
)
STORAGES = {
    # Ciphertext of sealed models; a bucket of any S3-compatible store where one is named.
    "artifacts": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": OBJECTS_DIR, "file_permissions_mode": 0o600},
    }
    if OBJECT_BUCKET == "none"
    else {
        "BACKEND": "inference.services.s3_storage.S3ArtifactStorage",
        "OPTIONS": {
            "bucket_name": OBJECT_BUCKET,
            "endpoint_url": OBJECT_ENDPOINT,
            "file_overwrite": True,
            # Whose an object is, the bucket says: one with uniform access refuses lists of its own.
            "default_acl": None,
        },
    },
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEVELOPMENT
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
# Ciphertext that one account may keep, and that one version may have (a 70B model in bf16
# has 140 GB). Raise them with the store behind them.
INFERENCE_ACCOUNT_STORAGE_BYTES_MAX = env_int("STRONGROOM_ACCOUNT_STORAGE_BYTES_MAX", 1024**4)
INFERENCE_VERSION_BYTES_MAX = env_int("STRONGROOM_VERSION_BYTES_MAX", 256 * 1024**3)
# Parts of sealed files are streamed to the store, never parsed as forms.
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024

EMAIL_BACKEND = env_text(
    "STRONGROOM_EMAIL_BACKEND",
    "django.core.mail.backends.console.EmailBackend"
    if DEVELOPMENT
    else "django.core.mail.backends.smtp.EmailBackend",
)
EMAIL_HOST = env_text("STRONGROOM_EMAIL_HOST", "localhost")
EMAIL_PORT = env_int("STRONGROOM_EMAIL_PORT", 25, minimum=1, maximum=PORT_MAX)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env_text("STRONGROOM_EMAIL_FROM", "Strongroom <noreply@strongroom.example>")

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "marketplace.api.authentication.TokenAuthentication",
        "marketplace.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["marketplace.api.parsing.BoundedJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "marketplace.api.schema.CodeSchema",
    "EXCEPTION_HANDLER": "marketplace.api.errors.handle_exception",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Strongroom management API",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "PREPROCESSING_HOOKS": ["marketplace.api.schema.leave_out_nodes"],
    "POSTPROCESSING_HOOKS": ["marketplace.api.schema.finish"],
}

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_TIME_LIMIT = 600
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600}  # Far above the time limit.
CELERY_TIMEZONE = "UTC"

KEYBROKER_URL = env_url("STRONGROOM_KEYBROKER_URL", "http://127.0.0.1:8002")
# File with the authority of its certificate; empty: those that the system knows.
KEYBROKER_CA = env_text("STRONGROOM_KEYBROKER_CA", "")
KEYBROKER_TOKEN = env_secret("STRONGROOM_KEYBROKER_TOKEN", "unset")
PLAYGROUND_SECRET = env_secret("STRONGROOM_PLAYGROUND_SECRET", "unset")
# The model that says what listings and searches mean, and a key that may run it; without one,
# searches go by words alone.
SEARCH_MODEL = env_text("STRONGROOM_SEARCH_MODEL", "demo/sentence-embeddings")
SEARCH_KEY = env_secret("STRONGROOM_SEARCH_KEY", "unset")
# Ed25519 private keys, raw, in base64: of receipts, and the one that names it in a rotation.
# Only workers need them.
RECEIPT_KEY = env_secret("STRONGROOM_RECEIPT_KEY", "")
RECEIPT_KEY_BEFORE = env_secret("STRONGROOM_RECEIPT_KEY_BEFORE", "")

# Where the counters of the gateways are read, with commas between; and what opens them. Behind the
# name of one that begins with dns+http is a gateway at each of its addresses.
GATEWAY_METRICS_URLS = [
    url
    for url in env_text(
        "STRONGROOM_GATEWAY_METRICS_URLS", f"{GATEWAY_URL}/metrics" if DEVELOPMENT else ","
    ).split(",")
    if url
]
for _url in GATEWAY_METRICS_URLS:
    if not re.fullmatch(r"(https?|dns\+http)://[^/?#\s@]+/[^?#\s]*", _url):
        detail = f"must be http, https or dns+http, a host and a path, not {_url!r}"
        raise SettingError(f"STRONGROOM_GATEWAY_METRICS_URLS {detail}")
# What opens the numbers of every process; workers and beat serve theirs where these say.
METRICS_TOKEN = read_token()
WORKER_METRICS_LISTEN = read_listen("STRONGROOM_WORKER_METRICS_LISTEN")
BEAT_METRICS_LISTEN = read_listen("STRONGROOM_BEAT_METRICS_LISTEN")
# Read by those who make spans; a wrong value is refused here, at the start.
Spans("strongroom-worker")
GATEWAY_METRICS_TOKEN = env_secret("STRONGROOM_GATEWAY_METRICS_TOKEN", METRICS_TOKEN)
# How long rolled-up numbers are kept, by the span of one row.
METRIC_MINUTE_HOURS = env_int("STRONGROOM_METRIC_MINUTE_HOURS", 48, minimum=25)
METRIC_HOUR_DAYS = env_int("STRONGROOM_METRIC_HOUR_DAYS", 35, minimum=31)
METRIC_DAY_DAYS = env_int("STRONGROOM_METRIC_DAY_DAYS", 400, minimum=91)

# The creator's share of a prediction; the rest is the platform's.
CREATOR_SHARE_BPS = env_int("STRONGROOM_CREATOR_SHARE_BPS", 8000, maximum=10_000)
# How long before it begins a dearer price is announced.
PRICE_NOTICE_DAYS = env_int("STRONGROOM_PRICE_NOTICE_DAYS", 7)
# What a node's hour costs, in nano-dollars: prices are shown beside what they cost to serve.
MACHINE_HOUR_NANOS = env_int("STRONGROOM_MACHINE_HOUR_NANOS", 100_000_000)
# How many versions a node may fetch the ciphertext of before it is given them; 0: none.
PREFETCH_VERSIONS = env_int("STRONGROOM_PREFETCH_VERSIONS", 0, maximum=64)
# What one copy of a version bears before another is loaded, where a node is free; see
# inference/core/copies.py. With 1 at most none is.
COPY_REQUESTS = env_int("STRONGROOM_COPY_REQUESTS", 4, minimum=1, maximum=10_000)
COPY_WAIT_S = env_int("STRONGROOM_COPY_WAIT_S", 30, minimum=1, maximum=86_400)
COPIES_MAX = env_int("STRONGROOM_COPIES_MAX", 8, minimum=1, maximum=16)
# Seconds without a call after which a new model is unloaded; 0 for never. Its creator may choose
# another time, or pay to have it kept: so much an hour, in nano-dollars.
IDLE_AFTER_S = env_int("STRONGROOM_IDLE_AFTER_S", 0, maximum=7 * 24 * 3600)
if 0 < IDLE_AFTER_S < 60:
    raise SettingError("STRONGROOM_IDLE_AFTER_S must be 0 or at least 60")
WARM_HOUR_NANOS = env_int("STRONGROOM_WARM_HOUR_NANOS", 10_000_000)
# Days that earnings wait before they are payable; new creators' for longer, since a card that
# was stolen for predictions of one's own model is noticed in weeks.
RESERVE_DAYS = env_int("STRONGROOM_RESERVE_DAYS", 7, minimum=1)
RESERVE_DAYS_NEW = env_int("STRONGROOM_RESERVE_DAYS_NEW", 14, minimum=1)
# Below, a transfer costs more than it is worth.
PAYOUT_MINIMUM_CENTS = env_int("STRONGROOM_PAYOUT_MINIMUM_CENTS", 2500, minimum=1)
# The day of the weekly run: 0 is Monday, 6 is Sunday.
PAYOUT_WEEKDAY = env_int("STRONGROOM_PAYOUT_WEEKDAY", 0, maximum=6)
# After so many days past its due day, an unpaid invoice pauses the keys of its account.
POSTPAID_PAUSE_DAYS = env_int("STRONGROOM_POSTPAID_PAUSE_DAYS", 14)

# Switches and announcements are on every page: each process looks for them that often.
PLATFORM_CACHE_S = 5

LOG_LEVEL = read_level()
LOGGING_CONFIG = None
logging.captureWarnings(True)
logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"()": "marketplace.core.logs.make_formatter"},
        },
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["console"], "level": LOG_LEVEL},
        "loggers": {name: {"level": "WARNING"} for name in ("django.server", "stripe", "httpx")},
    }
)
