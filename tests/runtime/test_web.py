"""The live page with a real client and in a real browser: access, content, and that a slow viewer delays nothing."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="the extra `web` is not installed")

from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, WSMsgType

from aselect_runtime.errors import InputError
from aselect_runtime.health import Health, SinkHealth, SourceHealth, SourceState
from aselect_runtime.progress import log_on_stderr
from aselect_runtime.records import ClassInfo, Manifest
from aselect_runtime.results import Captured, Result, SourceInfo
from aselect_runtime.sinks import open_sink, web_hub
from aselect_runtime.sinks.sink import Write
from aselect_runtime.sinks.web_message import result_message
from tests.runtime.chromium import CHROMIUM, Page, page
from tests.runtime.manifests import small_manifest

CAMERA = SourceInfo("rtsp://***@camera/1", fps=30, live=True)
FAULT = "got no frame 41, expected a stream; check the camera and the network; trying again"
TOKEN = "correct-horse-battery"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def _manifest(model: Path) -> Manifest:
    return Manifest.load(model / "manifest.json")


def _result(index: int = 0, stream: int = 0, outputs: dict[str, Any] | None = None) -> Result:
    """Left half dark, right half bright, on a grey frame whose brightness is its number."""
    if outputs is None:
        class_map = np.zeros((24, 32), np.uint8)
        class_map[:, 16:] = 2
        outputs = {"class_map": class_map}
    frame = np.full((48, 64, 3), 40 + index % 100, np.uint8)
    lost = SourceHealth("other", "lost", fault=f"{CAMERA.name}: {FAULT}")  # its frames have this source's name
    sources = (SourceHealth(CAMERA.name, "live", 7, repeated=4), lost)
    health = Health(9, 3.0, 12.5, sources, (SinkHealth("video.mp4", "failed"),))
    captured = Captured(frame, index, "frame", CAMERA, t_capture=100.0)
    manifest = small_manifest("seg" if "class_map" in outputs else "cls")
    return Result(captured, outputs, manifest, 100.05, {"infer": 40.0, "resize": 2.0}, health, stream)


@contextmanager
def _served(
    model: Path | Manifest, capfd: pytest.CaptureFixture[str], uri: str = "http://127.0.0.1:0"
) -> Iterator[tuple[Write, str]]:
    """The sink's `write` and the address that it printed."""
    with log_on_stderr(), open_sink(uri, model if isinstance(model, Manifest) else _manifest(model)) as write:
        printed = re.fullmatch(r"live page: (\S+)( \(.*\))?\n", capfd.readouterr().err)
        assert printed
        yield write, printed[1]


def _parts(message: bytes) -> tuple[dict[str, object], bytes, bytes]:
    (length,) = struct.unpack(">I", message[:4])
    head = json.loads(message[4 : 4 + length])
    rest = message[4 + length :]
    return head, rest[: head["image"]], rest[head["image"] :]


def test_a_page_receives_the_model_and_each_result(seg_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def look(url: str, write: Write) -> tuple[dict[str, object], bytes]:
        async with ClientSession() as session, session.ws_connect(f"{url}live") as socket:
            model = await socket.receive_json()
            write(_result(5))
            return model, await socket.receive_bytes(timeout=10)

    with _served(seg_model, capfd) as (write, url):
        model, message = asyncio.run(look(url, write))
    assert model["task"] == "seg"
    assert model["classes"][0] == {"name": "dark", "colour": [20, 30, 200]}  # type: ignore[index]
    head, image, classes = _parts(message)
    assert (head["source"], head["frame"], head["stream"]) == (CAMERA.name, 5, 0)
    assert head["areas"] == {"dark": 0.5, "middle": 0.0, "bright": 0.5}
    assert head["health"]["fps"] == 12.5  # type: ignore[index]
    assert head["health"]["repeated"] == 4  # type: ignore[index]
    frame = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert frame is not None
    assert np.abs(frame.astype(int) - 45).max() <= 2
    shown = cv2.imdecode(np.frombuffer(classes, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(shown, _result().outputs["class_map"])


def test_a_page_shows_a_hung_session(seg_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def look(url: str, write: Write) -> list[bytes]:
        async with ClientSession() as session, session.ws_connect(f"{url}live") as socket:
            await socket.receive_json()
            write(_result(5))
            first = await socket.receive_bytes(timeout=10)
            write.tell(Health(frames=6, stalled=("infer",)))  # type: ignore[attr-defined]
            return [first, await socket.receive_bytes(timeout=10)]

    with _served(seg_model, capfd) as (write, url):
        heads = [_parts(message)[0] for message in asyncio.run(look(url, write))]
    assert [head["frame"] for head in heads] == [5, 5]
    assert [head["health"]["stalled"] for head in heads] == [[], ["infer"]]  # type: ignore[index]


def test_classification_has_scores_and_no_map(cls_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def look(url: str) -> bytes:
        async with ClientSession() as session, session.ws_connect(f"{url}live") as socket:
            await socket.receive_json()
            return await socket.receive_bytes(timeout=10)

    with _served(cls_model, capfd) as (write, url):
        write(_result(outputs={"scores": np.array([0.1, 0.2, 0.7], np.float32)}))
        head, _, classes = _parts(asyncio.run(look(url)))
    assert head["top"] == {"bright": 0.7, "middle": 0.2, "dark": 0.1}
    assert classes == b""


def test_a_slow_page_gets_the_newest_result_and_delays_nothing_else(
    seg_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def look(url: str, write: Write) -> list[object]:
        async with ClientSession() as session, session.ws_connect(f"{url}live") as socket:
            await socket.receive_json()
            for index in range(500):
                write(_result(index))
            # It confirms none at first, so no more than the window comes.
            seen: list[object] = []
            while (frame := await _frame(socket)) is not None:
                seen.append(frame)
            await socket.send_str("shown")
            if seen[-1] != 499:
                seen.append(await _frame(socket))
            return seen

    with _served(seg_model, capfd) as (write, url):
        seen = asyncio.run(look(url, write))
    assert len(seen) <= web_hub.WINDOW + 1
    assert seen[-1] == 499


def test_one_thread_encodes_the_images_of_all_streams(seg_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    large = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)  # slow to encode

    def put(write: Write, index: int, stream: int) -> None:
        result = _result(index, stream)
        write(replace(result, captured=replace(result.captured, frame=large)))

    async def watch(session: ClientSession, url: str, write: Write, stream: int) -> None:
        async with session.ws_connect(f"{url}live") as socket:
            await socket.receive_json()
            for index in range(10):  # newer results keep coming, so that several are encoded at once
                await socket.receive_bytes(timeout=60)
                put(write, index, stream)
                await socket.send_str("shown")

    async def look(url: str, write: Write) -> int:
        async with ClientSession() as session:
            await asyncio.gather(*(watch(session, url, write, stream) for stream in range(4)))
        return threading.active_count()

    with _served(seg_model, capfd) as (write, url):
        for stream in range(4):
            put(write, 0, stream)
        before = threading.active_count()
        assert asyncio.run(look(url, write)) == before + 1


async def _frame(socket: ClientWebSocketResponse) -> object:
    """The number of the next frame, or None if there is none for a second."""
    try:
        return _parts(await socket.receive_bytes(timeout=1.0))[0]["frame"]
    except asyncio.TimeoutError:
        return None


def test_nothing_is_encoded_without_a_viewer(
    seg_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def counted(result: Result, manifest: Manifest) -> bytes:
        encoded.append(result.captured.index)
        return result_message(result, manifest)

    async def look(url: str) -> None:
        live = f"{url}live"
        async with ClientSession() as session, session.ws_connect(live) as one, session.ws_connect(live) as other:
            for socket in (one, other):
                await socket.receive_json()
                await socket.receive_bytes(timeout=10)

    monkeypatch.setattr("aselect_runtime.sinks.web.result_message", counted)
    with _served(seg_model, capfd) as (write, url):
        for index in range(10):
            write(_result(index))
        assert encoded == []
        asyncio.run(look(url))
    assert encoded == [9]  # once for both


def test_streams_take_turns(seg_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def look(url: str, write: Write) -> list[object]:
        async with ClientSession() as session, session.ws_connect(f"{url}live") as socket:
            await socket.receive_json()
            seen: list[object] = []
            for index in range(20):
                write(_result(index, stream=0))
                if index % 5 == 0:
                    write(_result(index, stream=1))
                seen.append(_parts(await socket.receive_bytes(timeout=10))[0]["stream"])
                await socket.send_str("shown")
            return seen

    with _served(seg_model, capfd) as (write, url):
        assert {0, 1} == set(asyncio.run(look(url, write)))


def test_a_viewer_above_the_limit_gets_a_message(
    seg_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_hub, "VIEWERS", 1)

    async def look(url: str) -> int | None:
        async with ClientSession() as session, session.ws_connect(f"{url}live") as first:
            await first.receive_json()
            async with session.ws_connect(f"{url}live") as second:
                assert (await second.receive(timeout=10)).type is WSMsgType.CLOSE
                return second.close_code

    with _served(seg_model, capfd) as (_, url):
        assert asyncio.run(look(url)) == web_hub.TRY_AGAIN_LATER


def test_the_end_of_the_run_closes_the_pages(seg_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int | None] = []
    joined = threading.Event()

    async def look(url: str) -> None:
        async with ClientSession() as session, session.ws_connect(f"{url}live") as socket:
            await socket.receive_json()
            joined.set()
            await socket.receive(timeout=10)
            codes.append(socket.close_code)

    with _served(seg_model, capfd) as (_, url):
        viewer = threading.Thread(target=lambda: asyncio.run(look(url)))
        viewer.start()
        assert joined.wait(10)
    viewer.join(10)
    assert codes == [web_hub.GOING_AWAY]
    assert not [thread for thread in threading.enumerate() if thread.name == "live page"]


async def _get(url: str, **options: dict[str, str]) -> tuple[int, str, dict[str, str]]:
    async with ClientSession(**options) as session, session.get(url, allow_redirects=False) as answer:  # type: ignore[arg-type]
        return answer.status, await answer.text(), dict(answer.headers)


def _status(url: str, **options: dict[str, str]) -> int:
    return asyncio.run(_get(url, **options))[0]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9000"}, 200),  # through an SSH tunnel
        ({"Host": "evil.example"}, 403),  # a name that was pointed at this machine
        ({"Host": "192.168.1.5"}, 403),
        ({"Host": "[bad"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_requests_of_other_sites_are_refused(
    seg_model: Path, capfd: pytest.CaptureFixture[str], headers: dict[str, str], status: int
) -> None:
    with _served(seg_model, capfd) as (_, url):
        got, _, sent = asyncio.run(_get(url, headers=headers))
    assert got == status
    assert "default-src 'none'" in sent["Content-Security-Policy"]
    assert "aiohttp" not in sent["Server"]


def test_off_loopback_the_token_opens_the_page_once_and_a_cookie_keeps_it_open(
    seg_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with _served(seg_model, capfd, "http://0.0.0.0:0") as (_, printed):
        address, token = printed.split("?token=")
        local = f"http://127.0.0.1:{address.rsplit(':', 1)[1]}"
        assert len(token) >= 32
        for path in ("", "page.js", "live", "metrics"):
            assert _status(f"{local}{path}") == 401
        assert _status(f"{local}?token={token[:-1]}") == 401
        assert _status(f"{local}?token=%ff%00") == 401
        status, _, sent = asyncio.run(_get(f"{local}?token={token}"))
        assert (status, sent["Location"]) == (303, "/")
        assert {"HttpOnly", "SameSite=Strict"} <= set(sent["Set-Cookie"].split("; "))
        cookie = sent["Set-Cookie"].split(";")[0]
        assert _status(f"{local}", headers={"Cookie": cookie}) == 200
        assert _status(f"{local}metrics", headers={"Authorization": f"Bearer {token}"}) == 200
    assert token not in capfd.readouterr().err


def test_a_token_of_the_environment_is_not_printed(
    seg_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASELECT_WEB_TOKEN", TOKEN)
    with log_on_stderr(), open_sink("http://0.0.0.0:0?host=camera.example.org", _manifest(seg_model)):
        said = capfd.readouterr().err
        assert TOKEN not in said
        port = re.search(r":(\d+)/", said)[1]  # type: ignore[index]
        local = f"http://127.0.0.1:{port}/metrics?token={TOKEN}"
        assert _status(local, headers={"Host": "camera.example.org"}) == 303
        assert _status(local, headers={"Host": "evil.example"}) == 403
    monkeypatch.setenv("ASELECT_WEB_TOKEN", "short")
    with pytest.raises(InputError, match="expected at least 16"):
        _enter("http://0.0.0.0:0", seg_model)


@pytest.mark.parametrize(
    "uri", ["http://", "http://127.0.0.1:99999", "http://user@127.0.0.1:1", "http://127.0.0.1:1/x", "http://h:1?a=b"]
)
def test_unusable_addresses(seg_model: Path, uri: str) -> None:
    with pytest.raises(InputError, match=r"expected for example http://127\.0\.0\.1:8080"):
        _enter(uri, seg_model)


def test_a_taken_port_and_a_missing_certificate(
    seg_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with _served(seg_model, capfd) as (_, url), pytest.raises(InputError, match="expected a free port"):
        _enter(url, seg_model)
    monkeypatch.delenv("ASELECT_WEB_CERT", raising=False)
    with pytest.raises(InputError, match="ASELECT_WEB_CERT"):
        _enter("https://127.0.0.1:0", seg_model)
    monkeypatch.setenv("ASELECT_WEB_CERT", str(seg_model / "manifest.json"))
    with pytest.raises(InputError, match="no usable certificate"):
        _enter("https://127.0.0.1:0", seg_model)


def test_https(
    seg_model: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    certificate: tuple[Path, Path],
) -> None:
    monkeypatch.setenv("ASELECT_WEB_CERT", str(certificate[0]))
    monkeypatch.setenv("ASELECT_WEB_KEY", str(certificate[1]))
    with _served(seg_model, capfd, "https://localhost:0") as (_, url):
        assert url.startswith("https://localhost:")

        async def look() -> int:
            trust = TCPConnector(ssl=ssl.create_default_context(cafile=str(certificate[0])))
            async with ClientSession(connector=trust) as session, session.get(url) as answer:
                return answer.status

        assert asyncio.run(look()) == 200


def test_a_fault_of_the_server_ends_the_page_not_the_run(
    seg_model: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_result: Result, manifest: Manifest) -> bytes:
        raise ValueError(f"a fault with {manifest.task}")

    async def look(url: str) -> int | None:
        async with ClientSession() as session, session.ws_connect(f"{url}live") as socket:
            await socket.receive_json()
            await socket.receive(timeout=10)
            return socket.close_code

    monkeypatch.setattr("aselect_runtime.sinks.web.result_message", fails)
    with _served(seg_model, capfd) as (write, url):
        write(_result())
        assert asyncio.run(look(url)) == web_hub.BROKEN
        write(_result())
    assert "a fault with seg" in caplog.text


def _enter(uri: str, model: Path) -> None:
    with open_sink(uri, _manifest(model)):
        pass


class Stream:
    """Writes results of two streams until it is stopped."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        index = 0
        while not self._end.wait(0.05):
            self._write(_result(index, stream=index % 2))
            index += 1


@needs_chromium
def test_a_stream_without_new_frames_is_not_live(seg_model: Path, free_port: int) -> None:
    """Two cameras that are connected, one of which delivers nothing more; later that one's video has ended."""
    asyncio.run(_look_at_a_stale_stream(f"http://127.0.0.1:{free_port}", _manifest(seg_model)))


async def _look_at_a_stale_stream(url: str, manifest: Manifest) -> None:
    numbers = count()

    def write_all(state: SourceState, streams: tuple[int, ...], number: int | None = None) -> None:
        sources = (SourceHealth("one", state="live"), SourceHealth("two", state=state))
        for stream in streams:
            result = _result(next(numbers) if number is None else number, stream=stream)
            write(replace(result, health=replace(result.health, sources=sources)))

    async def until(condition: str, state: SourceState, streams: tuple[int, ...]) -> None:
        while not await tab.run(condition):
            write_all(state, streams)
            await asyncio.sleep(0.1)

    text = "document.querySelector('#status').textContent.includes"
    async with page("about:blank") as tab:
        with open_sink(url, manifest) as write:
            await tab.call("Page.navigate", url=url)
            await until("document.querySelectorAll('figure').length === 2", "live", (0, 1))
            await until(f"{text}('Live')", "live", (0, 1))
            # At first the plots show ten seconds, not sixty, of which the first few would be invisible.
            assert await tab.run("[...document.querySelectorAll('canvas[id]')].map(plot => plot.dataset.seconds)") == [
                "10",
                "10",
            ]
            await until(f"{text}('1 of 2 streams stopped')", "live", (0,))
            await tab.size(390, 844)
            assert await tab.run("document.documentElement.scrollWidth <= 390")
            assert await tab.run("(([s]) => s.scrollWidth <= s.clientWidth)(document.querySelectorAll('#status span'))")
            await until(f"{text}('Live')", "ended", (0,))
            # The last result with the current health, as a run sends it while nothing comes, is no new frame.
            while not await tab.run(f"{text}('No new frame for')"):
                write_all("ended", (0,), number=10_000)
                await asyncio.sleep(0.1)


HOSTILE = "<img src=x onerror=document.title='owned'>"
INKED = """(() => { const c = document.querySelector('#latency-plot');
  return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value); })()"""
NO_OPACITY = """(() => { const slider = document.querySelector('#opacity'); slider.value = 0;
  slider.dispatchEvent(new Event('input')); })()"""


@needs_chromium
def test_the_page_works_in_a_browser(seg_model: Path, free_port: int) -> None:
    """Legend, figures, toggles, opacity, plots, hostile names, a phone, the end of the run and the next run."""
    manifest = _manifest(seg_model)
    classes = (manifest.classes[0], ClassInfo(name=HOSTILE, colour=(1, 2, 3)), manifest.classes[2])
    url = f"http://127.0.0.1:{free_port}"

    @contextmanager
    def run() -> Iterator[None]:
        with open_sink(url, manifest.model_copy(update={"classes": classes})) as write:
            stream = Stream(write)
            yield
            stream.stop()

    asyncio.run(_look_around(url, run))


async def _look_around(url: str, run: Callable[[], AbstractContextManager[None]]) -> None:
    async with page("about:blank") as tab:
        await tab.size(1280, 800)
        with run():
            await tab.call("Page.navigate", url=url)
            await tab.until("document.querySelectorAll('figure').length === 2")
            await _figures(tab)
            await _toggles_and_opacity(tab)
            await tab.size(390, 844)
            assert await tab.run("document.documentElement.scrollWidth <= 390")
            told = "document.querySelectorAll('figcaption .figures')[1]"
            assert await tab.run(f"{told}.textContent") == FAULT
            assert await tab.run(f"{told}.scrollWidth <= {told}.clientWidth")  # readable on a phone too
            assert tab.complaints == []
        await tab.until("document.querySelector('#status').dataset.state === 'lost'")
        with run():
            await tab.until("document.querySelector('#status').textContent.includes('1 of 2 cameras lost')")


async def _figures(tab: Page) -> None:
    await tab.until("document.querySelector('#status').textContent.includes('1 of 2 cameras lost')")
    names = await tab.run("[...document.querySelectorAll('#classes .name')].map(item => item.textContent)")
    assert names == ["dark", HOSTILE, "bright"]
    assert await tab.run("document.title") == "aselect live"
    await tab.until("document.querySelector('#classes .share').textContent === '50.0 %'")
    assert await tab.run("document.querySelector('#fps-now').textContent") == "12.5 fps"
    assert await tab.run("document.querySelector('#latency-now').textContent") == "50.0 ms"
    assert "failed" in await tab.run("document.querySelector('#health').textContent")
    await tab.until(INKED)


async def _toggles_and_opacity(tab: Page) -> None:
    assert await _redness(tab, x=10) < -50  # dark's colour is blue
    await tab.run("document.querySelector('#classes button').click()")
    assert abs(await _redness(tab, x=10)) < 8
    assert await _redness(tab, x=50) > 50  # bright's colour is red, and still there
    await tab.run(NO_OPACITY)
    assert abs(await _redness(tab, x=50)) < 8


async def _redness(tab: Page, x: int) -> int:
    """Red minus blue of a pixel of the first stream."""
    return int(
        await tab.run(
            "(() => { const context = document.querySelector('figure canvas').getContext('2d');"
            f"const [red, , blue] = context.getImageData({x}, 20, 1, 1).data; return red - blue; }})()"
        )
    )
