"""MQTT against a real mosquitto, which is also killed, started late, and asked for a password."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("paho.mqtt", reason="the extra `mqtt` is not installed")

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import InputError
from aselect_runtime.pipeline.heartbeat import Heartbeat
from aselect_runtime.pipeline.outlets import Outlet, open_outlets
from aselect_runtime.pipeline.output_plan import OutputPlan
from aselect_runtime.pipeline.timing import Stopwatch
from aselect_runtime.records import Manifest
from aselect_runtime.results import Captured, Result, SourceInfo
from aselect_runtime.sinks import open_sink
from aselect_runtime.sinks.mqtt_broker import Broker
from tests.runtime.manifests import small_manifest

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
TOPIC = "site/camera"


def _result(index: int) -> Result:
    captured = Captured(np.zeros((24, 32, 3), np.uint8), index, "frame", SourceInfo("camera", fps=30, live=True))
    return Result(captured, {"class_map": np.zeros((24, 32), np.uint8)}, small_manifest(), 1.0, {"infer": 4.0})


@contextmanager
def _broker(port: int, folder: Path, settings: str = "allow_anonymous true") -> Iterator[subprocess.Popen[bytes]]:
    assert MOSQUITTO is not None
    file = folder / "mosquitto.conf"
    file.write_text(f"listener {port} 127.0.0.1\nuser root\n{settings}\n")
    process = subprocess.Popen([MOSQUITTO, "-c", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: _answers(port))
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _listening(port: int) -> Iterator[list[tuple[str, str]]]:
    """Collects (topic, text) of everything below the topic."""
    heard: list[tuple[str, str]] = []

    def on_message(_client: Client, _data: object, message: MQTTMessage) -> None:
        heard.append((message.topic, message.payload.decode()))

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.subscribe(f"{TOPIC}/#", qos=1)
    client.loop_start()
    try:
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def silent_broker(*, connects: bool) -> Iterator[int]:
    """The port of a broker that acknowledges no message, and without `connects` no connection either."""
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def work() -> None:
            with suppress(OSError):
                client, _ = server.accept()
                clients.append(client)
                while client.recv(65536):
                    if connects and len(clients) == 1:
                        client.sendall(b"\x20\x02\x00\x00")  # CONNACK, accepted
                        clients.append(client)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for client in clients:
                client.close()
            thread.join()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "never true"
        time.sleep(0.02)


@needs_mosquitto
def test_results_and_status_arrive(seg_model: Path, tmp_path: Path, free_port: int) -> None:
    manifest = Manifest.load(seg_model / "manifest.json")
    with _broker(free_port, tmp_path), _listening(free_port) as heard:
        with open_sink(f"mqtt://127.0.0.1:{free_port}/{TOPIC}", manifest) as write:
            _until(lambda: (f"{TOPIC}/status", "online") in heard)
            for index in range(20):
                write(_result(index))
        _until(lambda: (f"{TOPIC}/status", "offline") in heard)
    lines = [json.loads(text) for topic, text in heard if topic == TOPIC]
    assert [line["frame"] for line in lines] == list(range(20))
    assert lines[0]["areas"] == {"dark": 1.0, "middle": 0.0, "bright": 0.0}
    assert set(lines[0]) == {"frame", "source", "t_capture", "t_result", "latency_ms", "areas"}


@needs_mosquitto
def test_a_broker_that_is_killed_and_comes_back(
    seg_model: Path, tmp_path: Path, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = Manifest.load(seg_model / "manifest.json")
    with caplog.at_level(logging.WARNING), open_sink(f"mqtt://127.0.0.1:{free_port}/{TOPIC}", manifest) as write:
        write(_result(0))  # nobody there yet: dropped
        with _broker(free_port, tmp_path), _listening(free_port) as heard:
            _until(lambda: (f"{TOPIC}/dropped", "1") in heard)
            write(_result(1))
            _until(lambda: any(topic == TOPIC for topic, _ in heard))
        _until(lambda: "the connection broke" in caplog.text)
        for index in range(2, 6):
            write(_result(index))
        with _broker(free_port, tmp_path), _listening(free_port) as again:
            _until(lambda: (f"{TOPIC}/status", "online") in again)
            write(_result(6))
            _until(lambda: any(topic == TOPIC for topic, _ in again))
            frames = [json.loads(text)["frame"] for topic, text in again if topic == TOPIC]
            dropped = [int(text) for topic, text in again if topic == f"{TOPIC}/dropped"]
    assert frames == [6]
    assert dropped == [5]
    assert caplog.text.count("no broker answers") == 1
    assert caplog.text.count("connected; ") == 2


@needs_mosquitto
def test_a_password_that_is_wrong_is_reported_and_never_shown(
    seg_model: Path, tmp_path: Path, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = Manifest.load(seg_model / "manifest.json")
    sink = open_sink(f"mqtt://somebody:hush-hush@127.0.0.1:{free_port}/{TOPIC}", manifest)
    with _broker(free_port, tmp_path, "allow_anonymous false"), caplog.at_level(logging.DEBUG), sink as write:
        _until(lambda: "refused the connection" in caplog.text)
        write(_result(0))
    assert "hush-hush" not in caplog.text
    assert "somebody" not in caplog.text


@needs_mosquitto
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho drops a refused socket unclosed
def test_tls_that_is_trusted_and_tls_that_is_not(
    seg_model: Path,
    tmp_path: Path,
    free_port: int,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifest = Manifest.load(seg_model / "manifest.json")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        plain = probe.getsockname()[1]
    files = f"certfile {certificate[0]}\nkeyfile {certificate[1]}"
    settings = f"{files}\nlistener {plain} 127.0.0.1\nallow_anonymous true"
    uri = f"mqtts://localhost:{free_port}/{TOPIC}"
    with _broker(free_port, tmp_path, settings), caplog.at_level(logging.WARNING):
        _until(lambda: _answers(plain))
        with _listening(plain) as heard:
            with open_sink(uri, manifest):
                _until(lambda: "its certificate is not trusted" in caplog.text)
            assert heard == []
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
            with open_sink(uri, manifest):
                _until(lambda: (f"{TOPIC}/status", "online") in heard)


@pytest.mark.parametrize("listens", [True, False])
def test_results_that_no_broker_got_are_dropped_and_not_written(
    seg_model: Path, free_port: int, listens: bool, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, session = open_model(seg_model, "cpu")
    with silent_broker(connects=False) as silent, caplog.at_level(logging.WARNING):
        uri = f"mqtt://127.0.0.1:{silent if listens else free_port}/{TOPIC}"
        video = "synthetic://street?size=48x64&frames=6"
        summary = run_pipeline(manifest, session, [video], [uri])
    (sink,) = summary.sinks
    assert (sink.state, sink.written, sink.dropped) == ("failed", 0, 6)
    assert "broker" in sink.fault
    assert summary.outputs == ()
    assert "results were dropped" in caplog.text


@needs_mosquitto
def test_results_that_the_broker_got_are_counted(seg_model: Path, tmp_path: Path, free_port: int) -> None:
    manifest = Manifest.load(seg_model / "manifest.json")
    uri = f"mqtt://127.0.0.1:{free_port}/{TOPIC}"
    outlet = Outlet(OutputPlan(uri, frozenset({0})), lambda: open_sink(uri, manifest), Stopwatch(), Heartbeat())
    with _broker(free_port, tmp_path), _listening(free_port) as heard, open_outlets([outlet]):
        _until(lambda: (f"{TOPIC}/status", "online") in heard)
        for index in range(3):
            outlet.offer(_result(index))
    health = outlet.health()
    assert (health.state, health.written, health.dropped, health.fault) == ("working", 3, 0, "")


def test_parts_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASELECT_MQTT_PASSWORD", raising=False)
    broker = Broker.parse("mqtts://us%40er:p%2Fw@host/a/b")
    assert (broker.host, broker.port, broker.topic, broker.tls) == ("host", 8883, "a/b", True)
    assert (broker.user, broker.password) == ("us@er", "p/w")
    assert "p/w" not in repr(broker)
    monkeypatch.setenv("ASELECT_MQTT_PASSWORD", "secret")
    assert Broker.parse("mqtt://user@host:1884/a").password == "secret"


@pytest.mark.parametrize(
    "uri",
    [
        "mqtt://",
        "mqtt://host",
        "mqtt://host/",
        "mqtt://u:pw@host:99999/a",
        "mqtt://h/a/#",
        "mqtt://h/+",
        "mqtt://h/a#b@c",
    ],
)
def test_unusable_addresses(seg_model: Path, uri: str) -> None:
    manifest = Manifest.load(seg_model / "manifest.json")
    with pytest.raises(InputError, match=r"expected for example mqtt://") as caught, open_sink(uri, manifest):
        pass
    assert "pw" not in str(caught.value)
