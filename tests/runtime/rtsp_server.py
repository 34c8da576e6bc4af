"""A real RTSP server for tests and benchmarks: GStreamer's, which Debian has as gir1.2-gst-rtsp-server-1.0.

    python3 rtsp_server.py PORT [FILE.mp4]     serves rtsp://127.0.0.1:PORT/live until it is killed

It shows a moving ball as JPEG, or the H.264 of a file to its end. With RTSP_USER and RTSP_PASSWORD in the
environment it asks for them. It needs a Python with PyGObject, which is often the system's and not this one's.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

BALL = (
    "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! "
    "jpegenc ! rtpjpegpay name=pay0"
)
FILE = "filesrc location={file} ! qtdemux ! h264parse config-interval=-1 ! rtph264pay name=pay0"


def interpreter() -> str | None:
    """A Python that can run the server, or None."""
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    for python in (sys.executable, "/usr/bin/python3"):
        if shutil.which(python) and not subprocess.run([python, "-c", probe], capture_output=True).returncode:
            return python
    return None


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    port: int, file: Path | None = None, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server; it listens when the block begins, and is killed after it."""
    python = interpreter()
    assert python is not None
    command = [python, __file__, str(port), *([str(file)] if file else [])]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 15
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Serve until killed."""
    gi: Any = import_module("gi")
    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    names = ("GLib", "Gst", "GstRtspServer")
    glib, gst, rtsp = (import_module(f"gi.repository.{name}") for name in names)
    _serve(glib, gst, rtsp)


def _serve(GLib: Any, Gst: Any, GstRtspServer: Any) -> None:  # noqa: N803 - as their documentation has them
    """Build the server and run its loop."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {FILE.format(file=sys.argv[2]) if len(sys.argv) > 2 else BALL} )")
    factory.set_shared(True)
    if "RTSP_USER" in os.environ:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(os.environ["RTSP_USER"], os.environ["RTSP_PASSWORD"]), token)
        server.set_auth(auth)
        factory.add_role_from_structure(_role(Gst))
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    GLib.MainLoop().run()


def _role(gst: Any) -> Any:
    structure = gst.Structure.new_empty("user")
    structure.set_value("media.factory.access", True)
    structure.set_value("media.factory.construct", True)
    return structure


if __name__ == "__main__":
    main()
