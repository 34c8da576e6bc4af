"""Events of real runs, in a file and at a real HTTP receiver that refuses, fails, redirects and comes back."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import InputError, RecordError, WriteError
from aselect_runtime.pipeline import deliveries as deliveries_module
from aselect_runtime.pipeline.deliveries import Delivery, close_all
from aselect_runtime.pipeline.events import EventPlan, plan_events
from aselect_runtime.pipeline.streams import Patience
from aselect_runtime.results import Result
from aselect_runtime.rules import Event, Rules, load_rules
from aselect_runtime.scenes import CLASSES
from aselect_runtime.sinks import event_lines as event_lines_module
from aselect_runtime.sinks.event_lines import event_lines
from aselect_runtime.sinks.event_opening import open_events
from aselect_runtime.sinks.event_recording import EventRecording
from aselect_runtime.sinks.event_sink import EventContext, event_place

AT_ONCE = Patience(first_delay=0.01, longest_delay=0.02)
RULES = Rules.model_validate(
    {
        "zones": [{"name": "left", "points": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}],
        "rules": [{"name": "light left", "class": "bright", "zone": "left", "above": 0.5, "for": 0.5}],
    }
)
CONTEXT = EventContext(RULES, ("camera",))


def _event(end: float | None = None, number: int = 1) -> Event:
    frame = np.full((48, 64, 3), 200, np.uint8)
    name = f"1000000-{number}-light-left"
    return Event(name, "light left", "bright", "left", 0, "camera", 1000.0, end, 2.0, 0.75, None, frame)


def _video(path: Path, left: str) -> Path:
    """At 10 fps, the left half bright for each `#` and dark for each `.`; the right half dark."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (128, 96))
    for mark in left:
        frame = np.zeros((96, 128, 3), np.uint8)
        frame[:, :64] = 255 if mark == "#" else 0
        writer.write(frame)
    writer.release()
    return path


@dataclass
class Receiver:
    """What came in: headers and bodies; `answers` are the statuses to come, 200 after the last."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@contextmanager
def _receiving(answers: list[int], port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(answers=answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.headers.append(dict(self.headers))
            receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
            self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def test_a_run_writes_its_events(seg_model: Path, tmp_path: Path) -> None:
    video = _video(tmp_path / "a.mp4", "." * 10 + "#" * 20 + "." * 10)
    lines = tmp_path / "out" / "events.jsonl"
    manifest, session = open_model(seg_model, "cpu")
    seen: list[Result] = []
    plan = EventPlan(RULES, (str(lines),))
    summary = run_pipeline(manifest, session, [str(video)], events=plan, on_frame=seen.append)
    start, end = map(json.loads, lines.read_text().splitlines())
    assert (start["state"], start["end"], end["state"]) == ("start", None, "end")
    assert start["id"] == end["id"]
    assert (end["rule"], end["class"], end["zone"], end["source"]) == ("light left", "bright", "left", str(video))
    assert (end["position"], end["seconds"], end["peak"]) == (1.0, 2.0, pytest.approx(1.0, abs=0.02))
    snapshot = cv2.imdecode(np.fromfile(lines.parent / end["snapshot"], np.uint8), cv2.IMREAD_COLOR)
    assert snapshot is not None
    assert snapshot.shape == (96, 128, 3)
    assert snapshot[:, :60].mean() > 240
    assert [len(result.events) for result in seen] == [0] * 15 + [1] * 25
    assert seen[-1].events[0].end is not None
    assert seen[-1].zones == RULES.zones
    assert [(sink.written, sink.dropped, sink.state) for sink in summary.sinks] == [(2, 0, "working")]


def test_events_that_wait_keep_their_snapshots_and_no_frames(seg_model: Path, tmp_path: Path) -> None:
    """A destination that holds all events until the end, as a queue in front of a dead one does."""
    video = _video(tmp_path / "a.mp4", ("." * 6 + "#" * 8) * 4)
    held: list[Event] = []
    manifest, session = open_model(seg_model, "cpu")
    run_pipeline(manifest, session, [str(video)], events=EventPlan(RULES, (nullcontext(held.append),)))
    assert [event.state for event in held] == ["start", "end"] * 4
    for event in held:
        kept = sum(len(value) for value in vars(event).values() if isinstance(value, bytes))
        assert 0 < kept < 96 * 128 * 3 / 4
        assert not any(isinstance(value, np.ndarray) for value in vars(event).values())
        assert event.snapshot is not None
        decoded = cv2.imdecode(np.frombuffer(event.snapshot, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape == (96, 128, 3)
        assert decoded[:, :60].mean() > 240


def test_the_end_of_the_input_ends_the_event(seg_model: Path, tmp_path: Path) -> None:
    first = _video(tmp_path / "a.mp4", "#" * 10)
    second = _video(tmp_path / "b.mp4", "." * 10 + "#" * 10)
    lines = tmp_path / "events.jsonl"
    manifest, session = open_model(seg_model, "cpu")
    run_pipeline(manifest, session, [str(first), str(second)], events=EventPlan(RULES, (str(lines),)))
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(each["input"], each["state"]) for each in told] == [(0, "start"), (0, "end"), (1, "start"), (1, "end")]
    assert [(each["position"], each["seconds"]) for each in told if each["state"] == "end"] == [(0, 0.9), (1, 0.9)]
    run_pipeline(manifest, session, [str(first)], events=EventPlan(RULES, (str(lines),)))
    assert len(lines.read_text().splitlines()) == 6  # added to, not replaced


def test_scores_of_a_classification(cls_model: Path, tmp_path: Path) -> None:
    video = _video(tmp_path / "a.mp4", "." * 10)
    lines = tmp_path / "events.jsonl"
    rules = Rules.model_validate({"rules": [{"name": "night", "class": "dark", "above": 0.5}]})
    manifest, session = open_model(cls_model, "cpu")
    run_pipeline(manifest, session, [str(video)], events=EventPlan(rules, (str(lines),)))
    assert [json.loads(line)["state"] for line in lines.read_text().splitlines()] == ["start", "end"]


def test_rules_that_do_not_suit_are_refused_before_anything_is_opened(seg_model: Path, tmp_path: Path) -> None:
    rules = Rules.model_validate({"rules": [{"name": "a", "class": "cat", "above": 0.5}]})
    manifest, session = open_model(seg_model, "cpu")
    video, lines = _video(tmp_path / "a.mp4", "#"), tmp_path / "events.jsonl"
    with pytest.raises(RecordError, match="the class 'cat'"):
        run_pipeline(manifest, session, [str(video)], events=EventPlan(rules, (str(lines),)))
    assert not lines.exists()


@pytest.mark.parametrize(
    ("output", "places", "videos"),
    [
        ("events/", ["events.jsonl"], None),
        ("x/../events/", ["events.jsonl"], None),
        ("events.jsonl", ["./events.jsonl"], None),
        ("masks/", ["events.jsonl", "./events.jsonl"], None),
        ("mix/", ["events.jsonl"], "mix"),
        ("m-{source}/", [], "m-a"),
    ],
)
def test_a_path_that_is_used_twice_is_refused_at_the_start(
    seg_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
    places: list[str],
    videos: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    _video(tmp_path / "a.mp4", "#" * 3)
    (tmp_path / "rules.toml").write_text('[[rules]]\nname = "a"\nclass = "bright"\nabove = 0.4\n')
    manifest, session = open_model(seg_model, "cpu")
    recording = None if videos is None else EventRecording(Path(videos))
    plan = plan_events(Path("rules.toml"), places, [output], ["a.mp4"], recording)
    with pytest.raises(InputError, match=r"expected a separate (file|folder)") as caught:
        run_pipeline(manifest, session, ["a.mp4"], [output], events=plan)
    assert caught.value.parameters == (("events",) if videos is None else ("record_events",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "rules.toml"]


def test_the_folder_of_calibration_images_is_not_that_of_masks(seg_model: Path, tmp_path: Path) -> None:
    video, folder = _video(tmp_path / "a.mp4", "#" * 3), tmp_path / "both"
    manifest, session = open_model(seg_model, "cpu")
    with pytest.raises(InputError, match="separate folder for calibration images"):
        run_pipeline(manifest, session, [str(video)], [f"{folder}/"], record=folder)
    assert not folder.exists()


def test_snapshots_and_videos_may_share_a_folder(
    seg_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _video(tmp_path / "a.mp4", "#" * 3)
    (tmp_path / "rules.toml").write_text('[[rules]]\nname = "a"\nclass = "bright"\nabove = 0.4\n')
    manifest, session = open_model(seg_model, "cpu")
    plan = plan_events(Path("rules.toml"), ["both.jsonl"], [], ["a.mp4"], EventRecording(Path("both")))
    run_pipeline(manifest, session, ["a.mp4"], ["masks/"], events=plan)
    assert sorted(path.suffix for path in (tmp_path / "both").iterdir()) == [".jpg", ".mkv"]
    assert len(list((tmp_path / "masks").glob("*.png"))) == 3


@pytest.mark.parametrize("place", ["events.txt", "ftp://a/b", "folder/", "rtsp://user:hush@camera/1"])
def test_invalid_destinations_are_refused(place: str) -> None:
    with pytest.raises(InputError, match=r"expected events\.jsonl") as caught:
        open_events(place, CONTEXT)
    assert "hush" not in str(caught.value)


def test_lines_after_a_kill_and_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"id": "cut o')
    with event_lines(path) as deliver:
        deliver(_event())
    assert [line[:8] for line in path.read_text().splitlines()] == ['{"id": "', '{"id": "']
    assert path.read_text().endswith("}\n")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))  # 10 bytes are written, no more
        with pytest.raises(WriteError, match="File too large"), event_lines(path) as deliver:
            deliver(Event("1-1-a", "a", "b", None, 0, "c", 0.0, None, 0.0, 0.5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(WriteError, match="it is a pipe, socket or device"), event_lines(tmp_path / "pipe.jsonl"):
        pass


def test_a_place_of_snapshots_that_is_no_folder_is_refused_at_the_start(tmp_path: Path) -> None:
    lines, folder = tmp_path / "events.jsonl", tmp_path / "events"
    refusal = r"events/a\.jpg: could not write \(Not a directory\)"
    folder.write_text("somebody's")
    with pytest.raises(WriteError, match=refusal), event_lines(lines):
        pass
    assert folder.read_text() == "somebody's"
    folder.unlink()
    folder.symlink_to("nowhere")  # no folder can be made there
    with pytest.raises(WriteError, match=refusal), event_lines(lines):
        pass


def test_only_the_newest_snapshots_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_lines_module, "SNAPSHOTS", 2)
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "mine.jpg").write_bytes(b"somebody's")
    for run in range(2):
        with event_lines(tmp_path / "events.jsonl") as deliver:
            for number in range(3):
                deliver(_event(number=3 * run + number))
    assert sorted(path.name for path in (tmp_path / "events").iterdir()) == [
        "1000000-4-light-left.jpg",
        "1000000-5-light-left.jpg",
        "mine.jpg",
    ]


def test_a_webhook_gets_signed_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASELECT_WEBHOOK_SECRET", "correct horse")
    with _receiving([]) as receiver:
        uri = f"http://us%40er:p%2Fw@127.0.0.1:{receiver.port}/hook?key=abc"
        with open_events(uri, CONTEXT) as deliver:
            deliver(_event(end=1002.0))
    (headers,), (body,) = receiver.headers, receiver.bodies
    told = json.loads(body)
    assert (told["rule"], told["start"], told["end"], told["peak"]) == ("light left", 1000.0, 1002.0, 0.75)
    snapshot = cv2.imdecode(np.frombuffer(base64.b64decode(told["snapshot"]), np.uint8), cv2.IMREAD_COLOR)
    assert snapshot is not None
    assert abs(float(snapshot.mean()) - 200) < 2
    digest = hmac.new(b"correct horse", body, hashlib.sha256).hexdigest()
    assert headers["X-Aselect-Signature-256"] == f"sha256={digest}"
    assert headers["X-Aselect-Event"] == "1000000-1-light-left end"
    assert headers["Authorization"] == f"Basic {base64.b64encode(b'us@er:p/w').decode()}"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("host", ["hooks..example.org", ".example.org", f"{'a' * 64}.org"])
@pytest.mark.parametrize("scheme", ["https", "mqtt"])
def test_a_host_that_is_no_name_is_refused_at_the_start(scheme: str, host: str) -> None:
    with (
        pytest.raises(InputError, match="expected for example") as caught,
        open_events(f"{scheme}://user:hush@{host}/x", CONTEXT),
    ):
        pass
    assert "hush" not in str(caught.value)


def test_without_a_secret_nothing_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASELECT_WEBHOOK_SECRET", raising=False)
    with _receiving([]) as receiver, open_events(f"http://127.0.0.1:{receiver.port}/", CONTEXT) as deliver:
        deliver(_event())
    assert not {"X-Aselect-Signature-256", "Authorization"} & receiver.headers[0].keys()


def test_what_fails_is_sent_again_until_it_arrives_and_in_order(caplog: pytest.LogCaptureFixture) -> None:
    with _receiving([500, 503, 429]) as receiver:
        uri = f"http://user:hush-hush@127.0.0.1:{receiver.port}/T0/secret-path"
        delivery = Delivery(event_place(uri), lambda: open_events(uri, CONTEXT), AT_ONCE)
        with caplog.at_level(logging.WARNING):
            delivery.start()
            delivery.offer(_event())
            delivery.offer(_event(end=1002.0))
            close_all([delivery])
    states = [json.loads(body)["state"] for body in receiver.bodies]
    assert states == ["start", "start", "start", "start", "end"]
    assert (delivery.health().written, delivery.health().dropped, delivery.health().state) == (2, 0, "working")
    assert caplog.text.count("got HTTP 500") == 1
    assert "accepts events again" in caplog.text
    assert "hush-hush" not in caplog.text
    assert "secret-path" not in caplog.text


def test_a_receiver_that_is_unreachable_and_returns(free_port: int) -> None:
    uri = f"http://127.0.0.1:{free_port}/"
    delivery = Delivery(uri, lambda: open_events(uri, CONTEXT), AT_ONCE)
    delivery.start()
    delivery.offer(_event())
    while delivery.health().state == "working":
        threading.Event().wait(0.01)
    assert "Connection refused" in delivery.health().fault
    with _receiving([], free_port) as receiver:
        close_all([delivery])
    assert len(receiver.bodies) == 1
    assert delivery.health().written == 1


@pytest.mark.parametrize("status", [302, 307, 400, 401, 404, 410])
def test_what_is_refused_for_good_is_not_sent_again(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with _receiving([status]) as receiver:
        uri = f"http://user:hush@127.0.0.1:{receiver.port}/"
        delivery = Delivery(event_place(uri), lambda: open_events(uri, CONTEXT), AT_ONCE)
        with caplog.at_level(logging.WARNING):
            delivery.start()
            delivery.offer(_event())
            delivery.offer(_event(number=2))
            close_all([delivery])
    assert [json.loads(body)["id"][8] for body in receiver.bodies] == ["1", "2"]
    assert (delivery.health().written, delivery.health().dropped) == (1, 1)
    assert f"got HTTP {status}" in caplog.text
    assert "hush" not in caplog.text


def test_the_end_of_the_run_does_not_wait_for_a_dead_receiver(free_port: int, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"http://127.0.0.1:{free_port}/"
    delivery = Delivery(uri, lambda: open_events(uri, CONTEXT), AT_ONCE)
    with caplog.at_level(logging.WARNING):
        delivery.start()
        for number in range(3):
            delivery.offer(_event(number=number))
        close_all([delivery], seconds=0.05)
    assert "3 events could not be delivered" in caplog.text
    assert (delivery.health().written, delivery.health().dropped, delivery.health().waiting) == (0, 3, 0)


def test_destinations_have_their_last_seconds_at_the_same_time(caplog: pytest.LogCaptureFixture) -> None:
    """At the end each delivers only while the other two do too: one after the other, none would end in time."""
    together = threading.Barrier(3)
    refused: set[str] = set()

    def deliver(name: str) -> None:
        if name not in refused:
            refused.add(name)
            raise WriteError("not yet")
        together.wait(30)

    def hang(_event: Event) -> None:
        threading.Event().wait()

    later = Patience(first_delay=3600, longest_delay=3600)
    deliveries = [
        Delivery(name, lambda name=name: nullcontext(lambda _: deliver(name)), later)  # type: ignore[misc]
        for name in "abc"
    ]
    hung = Delivery("hung", lambda: nullcontext(hang), later)
    for delivery in (hung, *deliveries):
        delivery.start()
        delivery.offer(_event())
    while len(refused) < 3:
        threading.Event().wait(0.01)
    caplog.clear()
    close_all([hung, *deliveries], seconds=2, grace=0.05)
    assert [each.health().written for each in (hung, *deliveries)] == [0, 1, 1, 1]
    assert "hung: did not end in time and was abandoned" in caplog.messages
    assert "hung: 1 events could not be delivered" in caplog.messages


def test_an_event_that_waits_to_be_sent_again_is_sent_at_the_end(free_port: int) -> None:
    uri = f"http://127.0.0.1:{free_port}/"
    delivery = Delivery(uri, lambda: open_events(uri, CONTEXT), Patience(first_delay=3600, longest_delay=3600))
    delivery.start()
    delivery.offer(_event())
    while delivery.health().state == "working":
        threading.Event().wait(0.01)
    with _receiving([], free_port) as receiver:
        close_all([delivery])
    assert len(receiver.bodies) == 1
    assert delivery.health().dropped == 0


def test_outputs_are_complete_before_a_dead_destination_is_given_up(
    seg_model: Path, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output is looked for at the moment at which the destinations are waited for."""
    video, last = _video(tmp_path / "a.mp4", "#" * 10), tmp_path / "last.png"
    found: list[bool] = []
    wait = Delivery.wait

    def look(self: Delivery, deadline: float) -> None:
        found.append(last.exists())
        wait(self, deadline)

    monkeypatch.setattr(Delivery, "wait", look)
    manifest, session = open_model(seg_model, "cpu")
    plan = EventPlan(RULES, (f"http://127.0.0.1:{free_port}/",))
    monkeypatch.setattr(deliveries_module.close_all, "__defaults__", (0.1, 0.1))
    summary = run_pipeline(manifest, session, [str(video)], [str(last)], events=plan)
    assert found
    assert all(found)
    assert [sink.dropped for sink in summary.sinks] == [0, 2]


def test_a_receiver_whose_answer_is_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            client.recv(1 << 20)
            client.sendall(b"\x00\xffnonsense\r\n\r\n")
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with open_events(uri, CONTEXT) as deliver, pytest.raises(WriteError) as caught:
            deliver(_event())
        thread.join()
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("uri", ["http://", "https://u:pw@", "http://u:pw@h:99999/", "http://h:x/pw", "http://h/p w"])
def test_unusable_webhooks(uri: str) -> None:
    with pytest.raises(InputError, match="malformed address of a webhook") as caught, open_events(uri, CONTEXT):
        pass
    assert "pw" not in str(caught.value)


COMMAND = [sys.executable, "-c", "from aselect_runtime.commands.run import run; run()"]


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_the_command_watches_rules(seg_model: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text('[[rules]]\nname = "a"\nclass = "bright"\nabove = 0.4\n')
    video = _video(tmp_path / "a.mp4", "." * 5 + "#" * 5)
    places = ["--rules", tmp_path / "rules.toml", "--events", tmp_path / "events.jsonl"]
    done = _run(seg_model, video, *places, "--json")
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("decoding videos ") for line in done.stderr.splitlines()), done.stderr
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2
    assert json.loads(done.stdout)["sinks"][0]["written"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--events", "events.jsonl"], "(--rules)"),
        (["--rules", "none.toml", "--events", "events.jsonl"], "none.toml: unreadable"),
        (["--rules", "{rules}"], "(--events)"),
        (["--rules", "{rules}", "--events", "events.txt"], "events.txt: got an unknown destination for events"),
        (["--rules", "{rules}", "--record-events", "videos"], "no compressed stream"),
    ],
)
def test_faults_of_the_command_are_one_line(seg_model: Path, tmp_path: Path, options: list[str], said: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rules]]\nname = "a"\nclass = "bright"\nabove = 0.4\n')
    done = _run(seg_model, "synthetic://street?size=48x64&frames=6", *(word.format(rules=path) for word in options))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_the_example_of_the_page_is_a_file_of_rules(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "rules.toml").write_text(text)
    rules = load_rules(tmp_path / "rules.toml")
    assert {rule.class_name for rule in rules.rules} <= set(CLASSES)
    assert {zone.name for zone in rules.zones} == {rule.zone for rule in rules.rules}
    (told,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert json.loads(told).keys() == _event(end=1.0).to_dict().keys()
