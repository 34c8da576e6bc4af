"""Streams that FFmpeg reads: sound ones arrive, and one that declares huge images is refused in little memory."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from aselect_runtime import open_model, run_pipeline
from aselect_runtime.errors import InputError
from aselect_runtime.pipeline.streams import Patience
from aselect_runtime.sources import open_source
from tests.runtime import videos

REFUSAL = r"expected at most 64 megapixels; reduce their size"
BOUND = 300 << 20
"""Bytes for a process that reads a hostile stream: one image of 16000x16000 is 768 MB."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A web server of the files in a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def jpeg(number: int, side: int | None = None) -> bytes:
    """An image, whose header may say that it has this side."""
    image = bytearray(cv2.imencode(".jpg", videos.grey(number))[1].tobytes())
    if side is not None:
        at = image.index(b"\xff\xc0") + 5
        image[at : at + 4] = side.to_bytes(2, "big") * 2
    return bytes(image)


def of_jpegs(path: Path, images: list[bytes], declared: tuple[int, int] = videos.SIZE) -> Path:
    """A Matroska stream of these images, whose container declares this height and width."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=videos.FPS)
        stream.height, stream.width = declared
        stream.pix_fmt = "yuvj420p"
        for number, image in enumerate(images):
            packet = av.Packet(image)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, videos.FPS)
            packet.is_keyframe = True
            container.mux(packet)
    return path


def of_h264(path: Path, size: tuple[int, int], count: int, form: str = "mpegts") -> Path:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream("libx264", rate=videos.FPS)
        stream.height, stream.width = size
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "ultrafast", "tune": "zerolatency"}
        for number in range(count):
            image = np.full((*size, 3), videos.grey(number % 50)[0, 0, 0], np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes() + buffer.getvalue() if path.exists() else buffer.getvalue())
    return path


def playlist(folder: Path, *segments: str) -> str:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2", "#EXT-X-MEDIA-SEQUENCE:0"]
    for segment in segments:
        lines += ["#EXTINF:2,", segment]
    (folder / "live.m3u8").write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]))
    return "live.m3u8"


def seen(address: str) -> list[int]:
    """The numbers that the frames of a stream show, to its end."""
    found: list[int] = []
    with open_source(address) as source, pytest.raises(InputError, match="got no frame"):
        found.extend(videos.number_of(captured.frame) for captured in source)
    return found


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="this PyAV has no libx264")
def test_transport_streams_and_hls_arrive(tmp_path: Path) -> None:
    of_h264(tmp_path / "a.m2t", videos.SIZE, 30)
    of_h264(tmp_path / "seg.ts", videos.SIZE, 30)
    with serving(tmp_path) as root:
        assert seen(f"{root}/a.m2t") == list(range(30))
        assert seen(f"{root}/{playlist(tmp_path, 'seg.ts')}") == list(range(30))


@pytest.mark.skipif("libx264" not in av.codecs_available, reason="this PyAV has no libx264")
def test_a_video_on_the_network_has_every_frame_with_its_position(tmp_path: Path) -> None:
    of_h264(tmp_path / "a.ts", videos.SIZE, 30)
    with serving(tmp_path) as root, open_source(f"{root}/a.ts") as source:
        assert not source.info.live
        captured = list(source)
    assert [videos.number_of(each.frame) for each in captured] == list(range(30))
    assert [each.position for each in captured] == pytest.approx([n / videos.FPS for n in range(30)], abs=0.005)


def test_images_that_do_not_decode_are_left_out(tmp_path: Path) -> None:
    of_jpegs(tmp_path / "a", [jpeg(0), b"\xff\xd8rubbish", jpeg(2), b"\xff\xd8\xff\xc0", jpeg(4)])
    greys: list[float] = []
    with serving(tmp_path) as root, open_source(f"{root}/a") as source, pytest.raises(InputError, match="got no frame"):
        greys.extend(float(captured.frame.mean()) for captured in source)
    assert greys == pytest.approx([30, 38, 46], abs=2)


def _hostile(kind: str, folder: Path) -> str:
    if kind == "declared":
        return of_jpegs(folder / "a", [jpeg(0, 16000)] * 3, (16000, 16000)).name
    if kind == "later":
        return of_jpegs(folder / "a", [jpeg(n) for n in range(20)] + [jpeg(0, 16000)] * 3).name
    of_h264(folder / "a.m2t", videos.SIZE, 150)
    of_h264(folder / "a.m2t", (8256, 8256), 1)
    if kind == "h264":
        return "a.m2t"
    (folder / "seg.ts").write_bytes((folder / "a.m2t").read_bytes())
    return playlist(folder, "seg.ts")


@pytest.mark.parametrize("kind", ["declared", "later", "h264", "hls"])
def test_huge_images_are_refused_by_name_in_little_memory(kind: str, tmp_path: Path) -> None:
    if kind in {"h264", "hls"} and "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no libx264")
    name = _hostile(kind, tmp_path)
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import av, cv2\n"
        "from aselect_runtime.errors import InputError\n"
        "from aselect_runtime.sources import open_source\n"
        "import aselect_runtime.sources.av_capture\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        f"limit = pages * resource.getpagesize() + {BOUND}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "count = 0\n"
        "try:\n"
        "    with open_source(sys.argv[1]) as source:\n"
        "        for captured in source:\n"
        "            count += 1\n"
        "except InputError as error:\n"
        "    print(count, error)\n"
    )
    with serving(tmp_path) as root:
        run = subprocess.run(
            [sys.executable, "-c", script, f"{root}/{name}"], capture_output=True, text=True, timeout=120, check=False
        )
    assert run.returncode == 0, run.stderr
    count, _, message = run.stdout.strip().partition(" ")
    assert REFUSAL in message
    assert int(count) == {"declared": 0, "later": 20}.get(kind, 150)


def test_beside_a_stream_of_huge_images_the_others_live(seg_model: Path, tmp_path: Path) -> None:
    of_jpegs(tmp_path / "bad", [jpeg(n) for n in range(5)] + [jpeg(0, 16000)] * 3)
    of_jpegs(tmp_path / "good", [jpeg(n % 50) for n in range(30)])
    manifest, session = open_model(seg_model, "cpu")
    patience = Patience(first_delay=0.05, longest_delay=0.1)
    with serving(tmp_path) as root:
        inputs = [f"{root}/bad", f"{root}/good"]
        summary = run_pipeline(manifest, session, inputs, max_frames=40, patience=patience)
    assert summary.sources[1].frames >= 10
