"""An MJPEG camera of this machine, for proofs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import cv2

from aselect_runtime.scenes import Street

RATE = 10
"""Frames per second."""
SECONDS = 20
"""After which the street begins again."""


@contextmanager
def mjpeg() -> Iterator[str]:
    """The address of a camera that shows a moving street, 96x128, until the block ends."""
    street = Street(0, 96, 128, RATE)
    images = [cv2.imencode(".jpg", street.frame(index)[0])[1].tobytes() for index in range(RATE * SECONDS)]
    ended = threading.Event()

    class Camera(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                for number in count():
                    image = images[number % len(images)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
                    self.wfile.write(head.encode() + image + b"\r\n")
                    if ended.wait(1 / RATE):
                        return
            except OSError:
                return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/video"
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
