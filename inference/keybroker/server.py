"""Serve the key broker over TLS, in one process and one event loop.

A node proves who it is by its certificate in the handshake: one of another authority ends the
connection there. A certificate whose time is over still comes through, so that the
application can say so in words (401 `certificate_expired`), and so that such a node can
renew it. Everybody else (web, workers, probes) shows none.

Source: OpenSSL, X509_VERIFY_PARAM_set_flags(3).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl

from aiohttp import web

from inference.keybroker import metrics
from inference.keybroker.app import BODY_BYTES_MAX, KeyBroker
from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.node_ca import NodeAuthority
from marketplace.core.metrics_listener import MetricsListener

logger = logging.getLogger(__name__)

# What is under way when we are told to stop has this long to end.
STOP_TIMEOUT_S = 5.0
# A web or a node that asks again soon finds its connection still open.
KEEPALIVE_TIMEOUT_S = 75.0
# X509_V_FLAG_NO_CHECK_TIME; the module `ssl` has no name for it.
_NO_CHECK_TIME = 0x200000


def make_context(config: KeyBrokerConfig, authority: NodeAuthority) -> ssl.SSLContext | None:
    """TLS as the settings have it; None for plain HTTP, in development."""
    if config.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    certificate, key = config.tls
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cadata=authority.certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    # Every connection proves anew who calls.
    context.num_tickets = 0
    return context


async def serve(config: KeyBrokerConfig) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    broker = KeyBroker(config)
    starting = asyncio.create_task(broker.start())
    stopping = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await _listen(config, broker, await starting, stopping)
    finally:
        for task in (starting, stopping):
            task.cancel()
        await broker.stop()


async def _listen(
    config: KeyBrokerConfig,
    broker: KeyBroker,
    authority: NodeAuthority,
    stopping: asyncio.Task[bool],
) -> None:
    context = make_context(config, authority)
    if context is None:
        logger.warning("plain HTTP: certificates of nodes are not checked; for development only")
    application = web.Application(client_max_size=BODY_BYTES_MAX)
    application.router.add_route("*", "/{path:.*}", broker.handle)
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=STOP_TIMEOUT_S,
        keepalive_timeout=KEEPALIVE_TIMEOUT_S,
    )
    await runner.setup()
    listener = _serve_metrics(config)
    try:
        await web.TCPSite(runner, config.host, config.port, ssl_context=context).start()
        logger.info("the key broker listens on %s:%s", config.host, config.port)
        await stopping
    finally:
        if listener is not None:
            listener.stop()
        await runner.cleanup()


def _serve_metrics(config: KeyBrokerConfig) -> MetricsListener | None:
    if config.tls is not None:
        metrics.watch_certificate(config.tls[0])
    if config.metrics_listen is None:
        return None
    listener = MetricsListener(
        config.metrics_listen, metrics.REGISTRY.render, token=config.metrics_token
    )
    listener.start()
    return listener
