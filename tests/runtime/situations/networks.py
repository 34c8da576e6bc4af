"""Cameras, streams and brokers."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

from aselect_runtime.sources.gstreamer_library import has_element
from tests.runtime.rtsp_server import free_port, interpreter, serving
from tests.runtime.situations import servers
from tests.runtime.situations.case import Make, Place, Run
from tests.runtime.situations.commands import Done
from tests.runtime.situations.making import SHARES, encoded, scene, video
from tests.runtime.situations.servers import Lock

PASSWORDS = ("a#b?c", "a@b:c", "a/b\\c", "a[b]c%d", "a b\"'`<>|^~!$&()*+,;={}", "é映")
FEW = ("--max-frames", "3")
SECOND = ("--max-seconds", "1")


def _told(given: str, told: str, *options: str) -> Make:
    return lambda _: Run([given], options=options, told=told)


def _hides(secret: str) -> Callable[[Done], None]:
    def check(done: Done) -> None:
        assert not secret or secret not in done.stderr + done.stdout

    return check


def _closed(scheme: str, path: str, told: str) -> Make:
    return lambda _: Run([f"{scheme}://127.0.0.1:{free_port()}/{path}"], told=told)


def _answers(status: int, told: str) -> Make:
    @contextmanager
    def make(_: Place) -> Iterator[Run]:
        with servers.web() as port:
            yield Run([f"http://127.0.0.1:{port}/status/{status}"], told=told)

    return make


def _serves(name: str, content: Callable[[Path], bytes], run: Callable[[str], Run]) -> Make:
    @contextmanager
    def make(place: Place) -> Iterator[Run]:
        with servers.web(files={f"/{name}": content(place.folder)}) as port:
            yield run(f"http://127.0.0.1:{port}/{name}")

    return make


def _live(password: str, *, variable: bool = False, digest: bool = False, typed: str | None = None) -> Make:
    """A camera that asks for a password: with it there are images, in which the left half is white."""

    @contextmanager
    def make(_: Place) -> Iterator[Run]:
        with servers.web(Lock(password, digest)) as port:
            given = "${CAMERA_PASSWORD}" if variable else typed or password
            uri = f"http://joe:{given}@127.0.0.1:{port}/live"
            environment = {"CAMERA_PASSWORD": password}
            if typed:
                told = "got no access .401., expected its user and password; check both"
                yield Run([uri], options=FEW, told=told, check=_hides(typed))
            else:
                yield Run(
                    [uri], options=FEW, live=True, shares=[0.5] * 3, environment=environment, check=_hides(password)
                )

    return make


@contextmanager
def _no_password(_: Place) -> Iterator[Run]:
    with servers.web(Lock("secret")) as port:
        yield Run([f"http://127.0.0.1:{port}/live"], told="got no access .401.")


def _secure(
    ending: Callable[[tuple[Path, Path]], str], told: str = "", password: str | None = None, host: str = "localhost"
) -> Make:
    @contextmanager
    def make(place: Place) -> Iterator[Run]:
        certificate = _certificate(place.folder)
        user = "" if password is None else f"joe:{password}@"
        with servers.web(None if password is None else Lock(password), certificate=certificate) as port:
            uri = f"https://{user}{host}:{port}/live{ending(certificate)}"
            yield Run([uri], options=FEW, live=True, shares=None if told else [0.5] * 3, told=told)

    return make


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    files = folder / "certificate.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(files[1])]
    command = [openssl, "req", "-x509", "-days", "2", *key, *names, "-out", str(files[0])]
    subprocess.run(command, check=True, capture_output=True)
    return files


def _rtsp(password: str, *, digest: bool = False, typed: str | None = None) -> Make:
    """With the password the server says that it has no such stream, without it that there is no access."""

    @contextmanager
    def make(_: Place) -> Iterator[Run]:
        with servers.rtsp(Lock(password, digest)) as port:
            given = password if typed is None else typed
            told = "got no such stream there .404.*check the path" if typed is None else "got no access .401."
            user = f"joe:{given}@" if given else ""
            yield Run([f"rtsp://{user}127.0.0.1:{port}/1"], told=told, check=_hides(given or "nothing"))

    return make


@contextmanager
def _encoded(_: Place) -> Iterator[Run]:
    """What is encoded already stays as it is."""
    with servers.web(Lock("p@ss/1")) as port:
        yield Run([f"http://joe:p%40ss%2F1@127.0.0.1:{port}/live"], options=FEW, live=True, shares=[0.5] * 3)


@contextmanager
def _encoded_rtsp(_: Place) -> Iterator[Run]:
    with servers.rtsp(Lock("p@ss/1")) as port:
        yield Run([f"rtsp://joe:p%40ss%2F1@127.0.0.1:{port}/1"], told="got no such stream there .404.")


def _plain(scheme: str, told: str) -> Make:
    """Another protocol is spoken at that port."""

    @contextmanager
    def make(_: Place) -> Iterator[Run]:
        with servers.web() as port:
            yield Run([f"{scheme}://127.0.0.1:{port}/live"], told=told)

    return make


@contextmanager
def _http_at_rtsp(_: Place) -> Iterator[Run]:
    with servers.rtsp(Lock("x")) as port:
        yield Run([f"http://127.0.0.1:{port}/live"], told="got no stream")


@contextmanager
def _no_answer_http(_: Place) -> Iterator[Run]:
    with servers.silent() as port:
        yield Run([f"http://127.0.0.1:{port}/1"], options=SECOND, told="got no frame before the end")


@contextmanager
def _udp(place: Place) -> Iterator[Run]:
    """An encoder that sends to this machine; whoever comes later sees it from the next key frame on."""
    path, port, over = video(place.folder / "a.ts", "mpeg2video", numbers=[4] * 12), free_port(), threading.Event()
    content = path.read_bytes()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            while not over.wait(0.02):
                for at in range(0, len(content), 1316):
                    out.sendto(content[at : at + 1316], ("127.0.0.1", port))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield Run([f"udp://@:{port}"], options=FEW, live=True, shares=[0.5] * 3)
    finally:
        over.set()
        sender.join()


@contextmanager
def _rtsp_stream(place: Place) -> Iterator[Run]:
    """GStreamer's server, which really plays: a video whose left half is white."""
    if interpreter() is None:
        pytest.skip("no RTSP server here (apt install gir1.2-gst-rtsp-server-1.0 python3-gi)")
    path = video(place.folder / "a.mp4", "libx264", numbers=[4] * 100)
    port, secret = free_port(), "p@ss/w#rd?"
    with serving(port, path, {"RTSP_USER": "joe", "RTSP_PASSWORD": secret}):
        uri = f"rtsp://joe:{secret}@127.0.0.1:{port}/live"
        yield Run([uri], options=FEW, live=True, shares=[0.5] * 3, check=_hides(secret))


def _mqtt(password: str) -> Make:
    @contextmanager
    def make(_: Place) -> Iterator[Run]:
        pytest.importorskip("paho.mqtt.client", reason="the extra `mqtt` is not installed")
        with servers.mqtt() as (port, users, messages):

            def check(done: Done) -> None:
                assert users == [(b"joe", password.encode())]
                assert messages[0] == b"online"
                assert messages[-1] == b"offline"
                shares = [json.loads(message)["areas"] for message in messages[1:-1]]
                assert all(sum(each.values()) == pytest.approx(1, abs=1e-3) for each in shares)
                assert shares
                assert password not in done.stderr

            street = "synthetic://street?size=48x64&frames=100000"
            uri = f"mqtt://joe:{password}@127.0.0.1:{port}/site/camera"
            yield Run([street], [uri], options=("--max-seconds", "1"), check=check)

    return make


def _webhook(password: str) -> Make:
    """The start and the end of an event: the image is white from frame 5 to frame 14."""

    @contextmanager
    def make(place: Place) -> Iterator[Run]:
        video(place.folder / "a.mp4", numbers=[*[0] * 5, *[8] * 10, *[0] * 10])
        place.file("r.toml", b'[[rules]]\nname = "white"\nclass = "bright"\nabove = 0.5\nfor = 0.1\nbelow_for = 0.1\n')
        with servers.receiver() as (port, posts):

            def check(done: Done) -> None:
                assert all(Lock(password).opens("POST", given) for given, _ in posts)
                events = [json.loads(body) for _, body in posts]
                assert [(event["state"], event["rule"]) for event in events] == [("start", "white"), ("end", "white")]
                assert events[1]["position"] == pytest.approx(5 / 25, abs=0.01)
                assert events[1]["seconds"] == pytest.approx(10 / 25, abs=0.05)
                assert password not in done.stderr

            options = ("--rules", "r.toml", "--events", f"http://joe:{password}@127.0.0.1:{port}/hook")
            yield Run(["a.mp4"], options=options, check=check)

    return make


def _mqtt_away(_: Place) -> Run:
    pytest.importorskip("paho.mqtt.client", reason="the extra `mqtt` is not installed")
    street, uri = "synthetic://street?size=48x64&frames=20", f"mqtt://127.0.0.1:{free_port()}/a"
    warned = "no broker answers; results are dropped until it is back|20 results were dropped"
    return Run([street], ["out.jsonl", uri], warned=warned)


@contextmanager
def _no_answer(_: Place) -> Iterator[Run]:
    with servers.silent() as port:
        yield Run([f"rtsp://127.0.0.1:{port}/1"], options=SECOND, told="got no frame before the end")


def _nobody(uri: str) -> Make:
    return lambda _: Run([uri.format(port=free_port())], options=SECOND, told="got no frame before the end")


def _srt(_: Place) -> Run:
    if re.search(r"\bsrt\b", " ".join(av.library_versions)):
        pytest.skip("this PyAV has SRT")
    return Run([f"srt://127.0.0.1:{free_port()}"], told="without this protocol.*relay the stream as rtsp")


def _camera(given: str, device: str) -> Make:
    def make(_: Place) -> Run:
        if Path(device).exists():
            pytest.skip(f"{device} exists here")
        return Run([given], told=f"{device}: no such camera, expected one of those present .*; plug it in")

    return make


def _pipeline(text: str, shares: Sequence[float] | None, told: str = "", needs: tuple[str, ...] = ()) -> Make:
    def make(_: Place) -> Run:
        if not all(map(has_element, needs)):
            pytest.skip(f"no GStreamer with {', '.join(needs)} here")
        return Run([text], shares=shares, told=told)

    return make


def _csi(_: Place) -> Run:
    if has_element("nvarguscamerasrc"):
        pytest.skip("a Jetson")
    return Run(["csi://0"], told="got no GStreamer.*expected it")


def _lost_beside(place: Place) -> Run:
    """A camera that is not there beside a video: the video is processed, the camera is tried until the end."""
    video(place.folder / "a.mp4")
    inputs = [f"rtsp://127.0.0.1:{free_port()}/1", "a.mp4"]

    def check(done: Done) -> None:
        found = [json.loads(line)["areas"]["bright"] for line in (done.folder / "out.jsonl").read_text().splitlines()]
        assert found == pytest.approx(SHARES, abs=0.04)

    return Run(inputs, options=SECOND, check=check, warned="got no server at that port.*; trying again")


HOST = "no-such-host.invalid"
UNKNOWN = f"got no address for the host {HOST}, expected a name that can be resolved"
CLOSED = "got no server at that port, expected one"
CASES: dict[str, Make] = {
    "camera 0": _camera("0", "/dev/video0"),
    "camera 42": _camera("42", "/dev/video42"),
    "/dev/video99": _camera("/dev/video99", "/dev/video99"),
    "by-id": _camera("/dev/v4l/by-id/usb-none", "/dev/v4l/by-id/usb-none"),
    "udev's name": _camera("/dev/front-camera", "/dev/front-camera"),
    "connector": _csi,
    "connector x": _told("csi://x", "got no connector number, expected csi://0 or csi://1"),
    "pipeline": _pipeline(
        "videotestsrc num-buffers=3 pattern=white ! video/x-raw,width=64,height=48", [1.0] * 3, "", ("videotestsrc",)
    ),
    "pipeline without its element": _pipeline("nosuchsrc ! videoconvert", None, "got no GStreamer", ()),
    "pipeline that is wrong": _pipeline("videotestsrc ! ! x", None, "expected", ("videotestsrc",)),
    "street": lambda _: Run(["synthetic://street?size=48x64&frames=3"], check=lambda done: _count(done, 3)),
    "another scene": _told("synthetic://forest", "unknown scene or option, expected for example synthetic://street"),
    "unknown option": _told("synthetic://street?speed=3", "unknown scene or option"),
    **{f"unknown host, {s}": _told(f"{s}://{HOST}/1", UNKNOWN) for s in ("rtsp", "rtsps", "http", "https", "rtmp")},
    "closed port, rtsp": _closed("rtsp", "1", CLOSED),
    "closed port, rtmp": _closed("rtmp", "app/key", CLOSED),
    "closed port, http": _closed("http", "live", CLOSED),
    "closed port, https": _closed("https", "live", CLOSED),
    "closed port, tcp": _closed("tcp", "", CLOSED),
    "closed port, http video": _closed("http", "a.mp4", CLOSED),
    "404": _answers(404, "got no such stream there .404.*check the path"),
    "403": _answers(403, "got no access .403.*check the user's rights"),
    "500": _answers(500, "got the answer 500 Internal Server Error"),
    "no password": _no_password,
    "wrong password": _live("right", typed="hunter2"),
    **{f"http password {password}": _live(password) for password in PASSWORDS},
    **{f"http variable {password}": _live(password, variable=True) for password in PASSWORDS[2:5]},
    **{f"http digest, password {password}": _live(password, digest=True) for password in PASSWORDS},
    "http digest, wrong password": _live("right", digest=True, typed="hunter2"),
    **{f"rtsp digest, password {password}": _rtsp(password, digest=True) for password in PASSWORDS},
    "rtsp digest, wrong password": _rtsp("right", digest=True, typed="hunter2"),
    "empty password": _live(""),
    "encoded password": _encoded,
    "encoded password, rtsp": _encoded_rtsp,
    "udp stream": _udp,
    "https where http is": _plain("https", "got no encrypted connection|not trusted"),
    "rtsp where http is": _plain("rtsp", "expected"),
    "rtsps where http is": _plain("rtsps", "got no encrypted connection"),
    "http where rtsp is": _http_at_rtsp,
    "redirect to nowhere": _answers(302, "got the answer 302"),
    "closed port, IPv6": lambda _: Run([f"rtsp://[::1]:{free_port()}/1"], told=CLOSED),
    "no answer, http": _no_answer_http,
    "rtsp no password": _rtsp("right", typed=""),
    "rtsp wrong password": _rtsp("right", typed="hunter2"),
    **{f"rtsp password {password}": _rtsp(password) for password in PASSWORDS},
    "rtsp stream": _rtsp_stream,
    "certificate": _secure(lambda _: "", "got a certificate that is not trusted.*#ca=/path/of.pem"),
    "certificate, not verified": _secure(lambda _: "#verify=0"),
    "certificate, trusted": _secure(lambda files: f"#ca={files[0]}"),
    "certificate of another name": _secure(lambda files: f"#ca={files[0]}", "not trusted", host="127.0.0.1"),
    **{f"https password {pw}": _secure(lambda files: f"#ca={files[0]}", password=pw) for pw in PASSWORDS[:2]},
    "certificate file that is none": _secure(lambda _: "#ca=nowhere.pem", "got a path after #ca= that is no file"),
    **{f"mqtt password {password}": _mqtt(password) for password in (*PASSWORDS[:3], PASSWORDS[4])},
    **{f"webhook password {password}": _webhook(password) for password in PASSWORDS},
    "mqtt, nobody there": _mqtt_away,
    "no answer": _no_answer,
    "nobody sends udp": _nobody("udp://@:{port}"),
    "srt": _srt,
    "long token": _closed("http", "live?token=" + "x" * 300, CLOSED),
    "long pipeline": _pipeline("nosuchsrc name=" + "x" * 300 + " ! videoconvert", None, "got no GStreamer"),
    "page instead of a stream": _serves(
        "index.html", lambda _: b"<html>" * 50, lambda uri: Run([uri], told="got data that is no video")
    ),
    "video on the network": _serves(
        "a.mp4", lambda folder: video(folder / "v.mp4").read_bytes(), lambda uri: Run([uri], shares=SHARES)
    ),
    "snapshot": _serves(
        "a.jpg",
        lambda _: encoded(".jpg", scene(4)),
        lambda uri: Run(
            [uri],
            options=("--max-frames", "2"),
            shares=[0.5] * 2,
            warned="got no frame 1.*trying again|delivers frames again",
        ),
    ),
    "port too large": _told("rtsp://host:99999/1", "got a malformed address"),
    "port 0x": _told("rtsp://host:five/1", "got a malformed address"),
    "half a bracket": _told("rtsp://[::1/1", "got a malformed address"),
    "no host": _told("rtsp://", "got no host, expected for example rtsp://host:554/stream"),
    "no host, udp": _told("udp://", "got no host"),
    "a camera lost beside a video": _lost_beside,
}


def _count(done: Done, count: int) -> None:
    assert len((done.folder / "out.jsonl").read_text().splitlines()) == count
