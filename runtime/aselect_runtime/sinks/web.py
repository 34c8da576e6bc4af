"""http://host:port, a live page: the camera's image with its classes, their shares, latency and frame rate.

One aiohttp server in a separate thread. Frames are encoded only for pages that are open and ready for the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from itertools import count
from threading import Thread
from typing import TYPE_CHECKING

from aselect_runtime.errors import InputError, MissingDependencyError
from aselect_runtime.health import Health
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.sinks.sink import Write

try:
    from aiohttp import web as http
except ImportError as error:
    raise MissingDependencyError(
        "got no aiohttp, expected it for the live page; pip install 'aselect-runtime[web]'"
    ) from error

from aselect_runtime.sinks.web_guard import TOKEN, Address, Guard
from aselect_runtime.sinks.web_hub import CLOSE_TIMEOUT, Hub
from aselect_runtime.sinks.web_message import model_message, result_message
from aselect_runtime.sinks.web_site import Site

if TYPE_CHECKING:
    from aselect_runtime.sinks.metrics import Metrics

log = logging.getLogger(__name__)

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
CERTIFICATE, KEY = "ASELECT_WEB_CERT", "ASELECT_WEB_KEY"
"""Environment variables with the paths of the PEM files for https."""


@contextmanager
def web(uri: str, manifest: Manifest) -> Iterator[Write]:
    """Serves the live page, and `/metrics` if prometheus-client is installed; the address is logged.

    Raises InputError if the address cannot be bound.
    """
    guard = Guard.of(Address.parse(uri))
    metrics = _metrics(manifest)
    with _serving(guard, manifest, metrics) as (hub, port):
        log.info("live page: %s", _address_to_open(guard, port))

        yield _Page(hub, metrics)


class _Page:
    """Sends every result to the page, and the last one again with the current health while no result comes."""

    def __init__(self, hub: Hub, metrics: Metrics | None) -> None:
        self._hub = hub
        self._metrics = metrics
        self._numbers = count(1)
        self._last: Result | None = None

    def __call__(self, result: Result) -> None:
        self._last = result
        if self._metrics is not None:
            self._metrics.observe(result)
        self._hub.post(next(self._numbers), result)

    def tell(self, health: Health) -> None:
        if self._metrics is not None:
            self._metrics.tell(health)
        if self._last is not None:
            self._hub.post(next(self._numbers), replace(self._last, health=health))


@contextmanager
def _serving(guard: Guard, manifest: Manifest, metrics: Metrics | None) -> Iterator[tuple[Hub, int]]:
    """Run the server in its thread inside the block; yields its hub and the port that was bound."""
    started: Future[tuple[Hub, int]] = Future()
    stop: Future[None] = Future()

    async def work() -> None:
        # asyncio's own executor adds a thread whenever images of several streams are encoded at once, up to more than
        # there are processors.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "live page images"))
        hub = Hub(model_message(manifest), partial(result_message, manifest=manifest))
        runner = http.AppRunner(_application(guard, hub, metrics), access_log=None, shutdown_timeout=CLOSE_TIMEOUT)
        try:
            await runner.setup()
            await Site(runner, guard.address, _certificate(guard.address)).start()
        except BaseException as error:
            await runner.cleanup()
            started.set_exception(error)
            return
        started.set_result((hub, int(runner.addresses[0][1])))
        await asyncio.wrap_future(stop)
        await hub.close()
        await runner.cleanup()

    thread = Thread(target=lambda: asyncio.run(work()), name="live page", daemon=True)
    thread.start()
    try:
        try:
            serving = started.result()
        except OSError as error:
            address = guard.address
            raise InputError(
                f"{address.host}:{address.port}: cannot serve the live page there ({error.strerror}), expected a free "
                "port of this machine; choose another port",
                parameter="output",
            ) from error
        yield serving
    finally:
        stop.set_result(None)
        thread.join()


def _application(guard: Guard, hub: Hub, metrics: Metrics | None) -> http.Application:
    application = http.Application(middlewares=[guard.admit])
    application.on_response_prepare.append(guard.add_headers)
    folder = files("aselect_runtime.sinks") / "page"

    def page(name: str, kind: str) -> http.RouteDef:
        body = (folder / name).read_bytes()

        async def answer(_: http.Request) -> http.Response:
            return http.Response(body=body, content_type=kind, charset="utf-8")

        return http.get(next(path for path in PAGE if PAGE[path][0] == name), answer)

    async def measured(_: http.Request) -> http.Response:
        if metrics is None:
            raise http.HTTPNotFound(text="No metrics: install aselect-runtime with the extra metrics.\n")
        return http.Response(body=metrics.exposition(), headers={"Content-Type": metrics.content_type})

    application.add_routes([page(name, kind) for name, kind in PAGE.values()])
    application.add_routes([http.get("/live", hub.serve), http.get("/metrics", measured)])
    return application


def _metrics(manifest: Manifest) -> Metrics | None:
    if find_spec("prometheus_client") is None:
        return None
    from aselect_runtime.sinks.metrics import Metrics

    return Metrics(manifest)


def _certificate(address: Address) -> ssl.SSLContext | None:
    if not address.tls:
        return None
    certificate, key = os.environ.get(CERTIFICATE), os.environ.get(KEY)
    if not certificate:
        raise InputError(
            f"got an https:// page without a certificate, expected the path of a PEM file in {CERTIFICATE} (and of its "
            f"key in {KEY}); set them, or use http://"
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"{certificate}: no usable certificate ({error.strerror or error}), expected PEM files in {CERTIFICATE} "
            f"and {KEY}; check the paths"
        ) from error
    return context


def _address_to_open(guard: Guard, port: int) -> str:
    """The address to open in a browser; a token from the environment is not shown, because the user knows it."""
    url = guard.address.url(port)
    if guard.token is None:
        return url
    return f"{url}?token={guard.token}" if guard.generated else f"{url} (with the token of {TOKEN})"
