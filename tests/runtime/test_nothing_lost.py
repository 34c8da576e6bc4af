"""Healthy and damaged inputs: every frame has its result, and no output is deleted because an input ended badly."""

from __future__ import annotations

import json
import logging
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.drawing import Look
from aselect_runtime.errors import IncompleteError, InputError
from aselect_runtime.pipeline.timing import RunSummary
from aselect_runtime.sources import open_source
from aselect_runtime.sources.container import missing_bytes
from tests.runtime import videos

STREET = "synthetic://street?size=48x64&frames=5"
NAMES = ("a.mp4", "a.mkv", "a.jsonl", "a.png", "masks/")


def _run(model: Path, inputs: list[str | Path], outputs: list[str]) -> RunSummary:
    manifest, session = open_model(model, "cpu")
    try:
        return run_pipeline(manifest, session, [str(each) for each in inputs], outputs)
    finally:
        session.close()


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", videos.KINDS)
def test_a_healthy_video_delivers_every_frame(tmp_path: Path, name: str) -> None:
    make, wanted = videos.KINDS[name]
    path = make(tmp_path / name)
    assert missing_bytes(path) == 0
    with open_source(str(path)) as source:
        captured = list(source)
    assert [videos.number_of(each.frame) for each in captured] == list(wanted)
    times = videos.times(name)
    assert [each.position for each in captured] == pytest.approx(times, abs=0.002)


def test_fewer_frames_than_promised_are_a_warning_and_the_next_input_follows(
    seg_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = videos.trimmed(tmp_path / "trimmed.mp4")
    out = tmp_path / "out"
    summary = _run(seg_model, [path, STREET], [f"{out}/{name}" for name in NAMES])
    assert summary.frames == 20 + 5
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"{path}: got 20 frames, but its container states about 50; the frames were used"
    ]
    assert sorted(each.name for each in out.iterdir()) == ["a.jsonl", "a.mkv", "a.mp4", "a.png", "masks"]
    assert len(videos.read(out / "a.mp4")) == len(videos.read(out / "a.mkv")) == 25


def _box(kind: bytes, size: int) -> bytes:
    return struct.pack(">I", 8 + size) + kind + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        _box(b"ftyp", 8) + _box(b"mdat", 100) + _box(b"moov", 50),
        b"RIFF" + struct.pack("<I", 100) + bytes(100) + b"RIFF" + struct.pack("<I", 30) + bytes(30),
        b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67\x40\x64" + bytes(100),
        _box(b"ftyp", 8) + struct.pack(">I4sQ", 1, b"mdat", 16 + 100) + bytes(100),
    ],
)
def test_a_container_says_how_many_bytes_are_missing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "video"
    for cut in (0, 1, 20):
        path.write_bytes(content[: len(content) - cut])
        assert missing_bytes(path) == cut


def test_a_recording_of_unknown_length_misses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "live.mkv"
    path.write_bytes(b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" + bytes(100))
    assert missing_bytes(path) == 0
    path.write_bytes(b"")
    assert missing_bytes(path) == 0


def _truncated(path: Path) -> Path:
    """An MJPG AVI of 40 frames without its second half."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(40):
        writer.write(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_outputs_keep_what_was_inferred_of_a_truncated_video_and_the_next_follows(
    seg_model: Path, tmp_path: Path
) -> None:
    cut, out = _truncated(tmp_path / "cut.avi"), tmp_path / "out"
    with pytest.raises(IncompleteError, match=r"cut\.avi: got \d+ frames and the end of the file.*kept") as caught:
        _run(seg_model, [cut, STREET], [f"{out}/{name}" for name in NAMES])
    summary = caught.value.summary
    assert isinstance(summary, RunSummary)
    read = summary.sources[0].frames
    assert 15 <= read <= 21
    assert summary.frames == read + 5
    assert "truncated" in summary.sources[0].fault
    assert (
        len(_lines(out / "a.jsonl")) == len(videos.read(out / "a.mp4")) == len(videos.read(out / "a.mkv")) == read + 5
    )
    assert len(list((out / "masks").glob("*.png"))) == read + 5
    assert (out / "a.png").stat().st_size


class _End(Enum):
    """How a server says where a body ends."""

    LENGTH = auto()
    CHUNKS = auto()
    CLOSE = auto()
    CLOSE_UNSAID = auto()
    """HTTP/1.0 without a word on it."""


@contextmanager
def _sending(folder: Path, share: float, end: _End = _End.LENGTH) -> Iterator[str]:
    """A server that closes the connection after this share of the bytes of a file of the folder."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0" if end is _End.CLOSE_UNSAID else "HTTP/1.1"

        def do_GET(self) -> None:
            content = (folder / self.path[1:]).read_bytes()
            self.send_response(200)
            if end is _End.LENGTH:
                self.send_header("Content-Length", str(len(content)))
            elif end is _End.CHUNKS:
                self.send_header("Transfer-Encoding", "chunked")
            elif end is _End.CLOSE:
                self.send_header("Connection", "close")
            self.end_headers()
            with suppress(ConnectionError):  # a client that has read enough
                self._send(content[: int(share * len(content))])
            self.close_connection = True

        def _send(self, sent: bytes) -> None:
            if end is not _End.CHUNKS:
                self.wfile.write(sent)
                return
            for start in range(0, len(sent), 50_000):
                part = sent[start : start + 50_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            if share == 1:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _streamable(path: Path, count: int = 400, *, index_first: bool = True) -> Path:
    """Noise, so that half of the bytes are about half of the frames; an .mp4 has its index first, or at its end."""
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" and index_first else {}
    random = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=videos.FPS)
        stream.height, stream.width, stream.pix_fmt = *videos.SIZE, "yuv420p"
        for _ in range(count):
            noise = random.integers(0, 256, (*videos.SIZE, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="bgr24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("end", [_End.LENGTH, _End.CHUNKS])
@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mp4"])
def test_a_video_over_http_that_breaks_off_is_an_error_and_the_next_follows(
    seg_model: Path, tmp_path: Path, name: str, end: _End
) -> None:
    _streamable(tmp_path / name)
    lines = tmp_path / "a.jsonl"
    with _sending(tmp_path, 1.0, end) as server:
        assert _run(seg_model, [f"{server}/{name}"], []).frames == 400
    with _sending(tmp_path, 0.5, end) as server:
        pattern = rf"{name}: got \d+ frames and then .+, expected the rest of the video; check its server"
        with pytest.raises(IncompleteError, match=pattern) as caught:
            _run(seg_model, [f"{server}/{name}", STREET], [str(lines)])
    summary = caught.value.summary
    assert isinstance(summary, RunSummary)
    (tmp_path / f"cut-{name}").write_bytes((tmp_path / name).read_bytes()[: (tmp_path / name).stat().st_size // 2])
    assert 100 < len(videos.read(tmp_path / f"cut-{name}")) == summary.sources[0].frames < 300
    assert summary.sources[1].frames == 5
    assert len(_lines(lines)) == summary.frames


@pytest.mark.parametrize("end", [_End.CLOSE, _End.CLOSE_UNSAID])
@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mp4"])
def test_a_video_over_http_without_a_length_ends_where_the_connection_does(
    seg_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, end: _End
) -> None:
    """Nothing but the container tells a part of it from the whole, and MPEG-TS does not."""
    _streamable(tmp_path / name)
    unknown = f"{name}: got 400 frames; neither its server nor its container states how much it is"
    with _sending(tmp_path, 1.0, end) as server:
        summary = _run(seg_model, [f"{server}/{name}"], [])
    assert (summary.frames, summary.reconnects, summary.dropped) == (400, 0, 0)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [unknown in line for line in warnings] == [True] * (name == "a.ts")
    if name != "a.ts":
        pattern = rf"{name}: got \d+ frames and then the end of the connection, expected about 400, which its container"
        with _sending(tmp_path, 0.5, end) as server, pytest.raises(IncompleteError, match=pattern):
            _run(seg_model, [f"{server}/{name}"], [])


@pytest.mark.parametrize("end", _End)
def test_a_video_over_http_whose_index_is_at_its_end_says_so(seg_model: Path, tmp_path: Path, end: _End) -> None:
    """The server answers no ranges."""
    _streamable(tmp_path / "late.mp4", index_first=False)
    with (
        _sending(tmp_path, 1.0, end) as server,
        pytest.raises(
            InputError, match=r"late\.mp4: got .+, expected a video that can be read from its beginning; copy it"
        ),
    ):
        _run(seg_model, [f"{server}/late.mp4"], [])


def test_one_bad_image_of_many_is_skipped_named_and_counted(
    seg_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "c.jpg"):
        cv2.imwrite(str(photos / name), np.zeros((8, 9, 3), np.uint8))
    (photos / "b.png").write_bytes(b"\x89PNG nonsense")
    summary = _run(seg_model, [photos], [f"{tmp_path}/masks/", f"{tmp_path}/a.jsonl"])
    assert (summary.frames, summary.sources[0].skipped) == (2, 1)
    assert "b.png" in caplog.text
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a.png", "c.png", "masks.json"]
    assert [line["file"] for line in _lines(tmp_path / "a.jsonl")] == ["a.png", "c.jpg"]
    (photos / "a.png").unlink()
    (photos / "c.jpg").unlink()
    with pytest.raises(InputError, match=r"b\.png"):
        _run(seg_model, [photos], [f"{tmp_path}/none/"])
    assert not (tmp_path / "none").exists()


def test_a_folder_of_clips_and_images_is_read_in_order(seg_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "day"
    folder.mkdir()
    videos.write(folder / "b.mp4", videos.regular(3))
    videos.write(folder / "c.mkv", videos.regular(2))
    cv2.imwrite(str(folder / "a.png"), np.zeros((8, 9, 3), np.uint8))
    _run(seg_model, [folder], [f"{tmp_path}/masks/", f"{tmp_path}/a.jsonl"])
    names = ["a", "b-000000", "b-000001", "b-000002", "c-000000", "c-000001"]
    assert sorted(path.stem for path in (tmp_path / "masks").glob("*.png")) == names
    lines = _lines(tmp_path / "a.jsonl")
    assert [line["frame"] for line in lines] == list(range(6))
    assert [line.get("position") for line in lines] == [None, 0, 0.04, 0.08, 0, 0.04]


def test_a_failure_in_the_middle_keeps_what_was_written(seg_model: Path, tmp_path: Path) -> None:
    manifest, session = open_model(seg_model, "cpu")

    seen: list[object] = []

    def fail(result: object) -> None:
        seen.append(result)
        if len(seen) == 4:
            raise RuntimeError("a bug")

    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        run_pipeline(manifest, session, [STREET], [f"{out}/{name}" for name in NAMES], on_frame=fail)
    assert len(videos.read(out / "a.mp4")) == len(_lines(out / "a.jsonl")) == 4
    assert len(list((out / "masks").glob("*.png"))) == 4


@pytest.mark.parametrize("task", ["seg", "cls"])
def test_a_folder_of_images_has_an_overlay_of_each(seg_model: Path, cls_model: Path, tmp_path: Path, task: str) -> None:
    photos = tmp_path / "photos"
    (photos / "b").mkdir(parents=True)
    for name in ("a.jpg", "a.png", "b/c.png"):
        cv2.imwrite(str(photos / name), np.zeros((60, 80, 3), np.uint8))
    _run(seg_model if task == "seg" else cls_model, [photos], [f"{tmp_path}/out/{{name}}.png"])
    out = tmp_path / "out"
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert names == ["a.jpg.png", "a.png.png", "b/c.png"]
    overlay = cv2.imread(str(out / "b" / "c.png"))
    assert overlay is not None
    assert overlay.shape == (480, 640, 3)


def test_opacity_and_clear_classes(seg_model: Path, tmp_path: Path) -> None:
    manifest, session = open_model(seg_model, "cpu")
    frame = np.zeros((96, 128, 3), np.uint8)
    frame[:, 64:] = 255
    cv2.imwrite(str(tmp_path / "in.png"), frame)

    def painted(look: Look) -> list[tuple[int, ...]]:
        run_pipeline(manifest, session, [str(tmp_path / "in.png")], [f"{tmp_path}/a.png"], look=look)
        image = cv2.imread(str(tmp_path / "a.png"))
        assert image is not None
        return [tuple(map(int, image[400, column])) for column in (100, 540)]

    # The left half is black and of the class dark, RGB (20, 30, 200); the right is white and bright, (230, 60, 50).
    assert painted(Look(opacity=1.0)) == [(200, 30, 20), (50, 60, 230)]
    assert painted(Look(opacity=0.0)) == [(0, 0, 0), (255, 255, 255)]
    assert painted(Look(1.0, frozenset({"dark"}))) == [(0, 0, 0), (50, 60, 230)]
    with pytest.raises(
        InputError, match="got the unknown class 'sky' to leave clear, expected one of dark, middle, bright"
    ):
        painted(Look(clear=frozenset({"sky"})))
