"""The MQTT broker that a URI names: mqtt://[user[:password]@]host[:port]/topic, mqtts:// with TLS."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import unquote

from aselect_runtime.addresses import is_host, split_address
from aselect_runtime.errors import InputError
from aselect_runtime.redaction import redact
from aselect_runtime.sources.addresses import quoted_destination

PASSWORD = "ASELECT_MQTT_PASSWORD"
"""Environment variable with the password: a URI on the command line can be read by every user of the machine."""
EXAMPLE = "mqtt://user@broker.example.org:1883/site/camera"


@dataclass(frozen=True)
class Broker:
    """Where results are published."""

    name: str
    """The URI without credentials."""
    host: str
    port: int
    topic: str
    tls: bool
    user: str | None
    password: str | None = field(repr=False)

    @classmethod
    def parse(cls, uri: str) -> Broker:
        """Parse a URI; raises InputError."""
        address = quoted_destination(uri)
        split = split_address(address, EXAMPLE)
        parts = split.parts
        tls = parts.scheme == "mqtts"
        topic = unquote(parts.path).strip("/")
        port = split.port or (8883 if tls else 1883)
        after = address.rpartition("@")[2] + topic
        odd = parts.query or parts.fragment or set(after) & set("+#\0")  # + and # in a topic are wildcards
        # A name that cannot exist would end the client's thread with a traceback.
        if not parts.hostname or not is_host(parts.hostname) or not topic or odd:
            raise InputError(f"{redact(uri)}: got no broker with a topic to publish to, expected for example {EXAMPLE}")
        user = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else os.environ.get(PASSWORD)
        return cls(redact(uri), parts.hostname, port, topic, tls, user, password)
