"""A real MQTT broker that can be killed, for proofs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from aselect_runtime.errors import MissingDependencyError


@dataclass
class Broker:
    """A real mosquitto, and a subscriber that counts what passes through it."""

    port: int
    folder: Path
    heard: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on its port."""
        file = self.folder / "mosquitto.conf"
        file.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n")
        command = [mosquitto(), "-c", str(file)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count messages; the client comes back after each death of the broker."""

        def on_message(_client: Client, _data: object, _message: MQTTMessage) -> None:
            self.heard += 1

        client = Client(CallbackAPIVersion.VERSION2)
        client.on_message = on_message
        client.on_connect = lambda client, *_: client.subscribe("soak")
        client.reconnect_delay_set(1, 1)
        client.connect_async("127.0.0.1", self.port)
        client.loop_start()
        try:
            yield
        finally:
            client.disconnect()
            client.loop_stop()
            self.kill()


def mosquitto() -> str:
    """Its path; raises MissingDependencyError."""
    path = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        raise MissingDependencyError("got no mosquitto, expected it on the PATH; apt install mosquitto")
    return path


def release() -> str:
    """mosquitto's version, from its help."""
    said = subprocess.run([mosquitto(), "-h"], capture_output=True, text=True, check=False).stdout
    return said.split()[2]
