"""mqtt://[user[:password]@]host[:port]/topic, results as JSON for an MQTT broker; mqtts:// with TLS.

topic           a result as JSON (`Result.to_json`), one message per result (QoS 0)
topic/status    `online` or `offline`, retained; the broker publishes `offline` if this process ends unexpectedly
topic/dropped   number of results dropped while the broker was away or slow, retained, published on reconnection
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Event
from time import monotonic
from typing import Any, NamedTuple

from aselect_runtime.errors import MissingDependencyError, WriteError
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result
from aselect_runtime.sinks.mqtt_broker import Broker
from aselect_runtime.sinks.sink import Sent, Write

try:
    from paho.mqtt.client import MQTT_ERR_NO_CONN, MQTT_ERR_SUCCESS, Client, MQTTMessageInfo, error_string
    from paho.mqtt.enums import CallbackAPIVersion
except ImportError as error:
    raise MissingDependencyError("got no paho, expected it for MQTT; pip install 'aselect-runtime[mqtt]'") from error

DEPTH = 256
"""Messages that may wait for a slow broker; further results are dropped until it has caught up."""
SLOWEST = 30
"""Maximum seconds between two attempts to connect; the delay starts at 1 and doubles."""
CLOSE_TIMEOUT = 2.0
"""Seconds to send the last messages at the end."""
CONNECT_TIMEOUT = 2.0
"""Seconds that an event waits for a connection before it counts as not delivered for now."""
ACKNOWLEDGE_TIMEOUT = 10.0
"""Seconds that the broker has to acknowledge an event."""
AWAY = "results are dropped until it is back"

log = logging.getLogger(__name__)


@contextmanager
def mqtt(uri: str, manifest: Manifest) -> Iterator[Write]:  # noqa: ARG001 - one form for all sinks
    """Publishes every result. If the broker is away, it is tried again in the background: it may start later."""
    connection = Connection(Broker.parse(uri))
    try:
        yield _Results(connection)
    finally:
        connection.close()


class _Results:
    """Publishes results and reports how many the broker got."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.sent = connection.sent

    def __call__(self, result: Result) -> None:
        self._connection.publish(result.to_json())


class Message(NamedTuple):
    """A message below the broker's topic."""

    topic: str
    payload: str | bytes
    retain: bool = False


class Connection:
    """A connection that reconnects itself. paho's thread runs the callbacks; only the sink's thread sends.

    `greeting` returns the retained message of each topic, which are published at every connection; `away` is the end of
    the log message while the broker is away.
    """

    def __init__(self, broker: Broker, greeting: Callable[[], Mapping[str, str]] = dict, away: str = AWAY) -> None:
        self._broker = broker
        self._greeting = greeting
        self._away = away
        self._waiting: deque[MQTTMessageInfo] = deque()
        self._pending: tuple[Sequence[Message], list[MQTTMessageInfo]] = ((), [])
        """The messages of the latest `send` that are not acknowledged yet."""
        self._written = self._dropped = 0
        self._fault = ""
        self._trouble = "no broker has answered"
        self._connected = Event()
        self._reported = False
        self._client = Client(CallbackAPIVersion.VERSION2)
        # Without limit: results wait in `_waiting`, and the messages of a greeting are lost without a word beyond one.
        self._client.max_queued_messages_set(0)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.reconnect_delay_set(1, SLOWEST)
        self._client.will_set(f"{broker.topic}/status", "offline", qos=1, retain=True)
        if broker.user is not None:
            self._client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            self._client.tls_set()
        self._client.connect_async(broker.host, broker.port)
        self._client.loop_start()

    def publish(self, text: str) -> None:
        """Send a message, or count it as dropped if the broker is away or slow; never waits."""
        self._count_published()
        if not self._client.is_connected() or len(self._waiting) >= DEPTH:
            self._dropped += 1
            self._fault = "the broker is too slow" if self._client.is_connected() else self._trouble
            return
        self._fault = ""
        self._waiting.append(self._client.publish(self._broker.topic, text))

    def sent(self) -> Sent:
        """How many results were published and dropped so far, and why the latest was dropped."""
        return Sent(self._written, self._dropped, self._fault)

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages that must arrive (QoS 1), and wait until the broker has acknowledged all of them.

        Raises WriteError if it has not; call it again with the same messages then: those that are still on their way
        are not sent twice.
        """
        if not self._connected.wait(CONNECT_TIMEOUT):
            raise self._undelivered(self._trouble)
        before, sent = self._pending
        if not sent or before != messages:
            sent = [
                self._client.publish(f"{self._broker.topic}/{topic}", payload, qos=1, retain=retain)
                for topic, payload, retain in messages
            ]
            for info in sent:
                if info.rc == MQTT_ERR_NO_CONN:  # lost just now: paho keeps the message, and sends it once connected
                    info.rc = MQTT_ERR_SUCCESS
        if not _all_published(sent, ACKNOWLEDGE_TIMEOUT):
            self._pending = (messages, sent)
            raise self._undelivered(f"no acknowledgement within {ACKNOWLEDGE_TIMEOUT:.0f} s")
        self._pending = ((), [])
        refused = [info.rc for info in sent if info.rc != MQTT_ERR_SUCCESS]
        if refused:
            raise self._undelivered(error_string(refused[0]))

    def close(self) -> None:
        """Publish what waits and `offline` if connected, then disconnect; results that were dropped are logged."""
        if self._client.is_connected():
            last = self._client.publish(f"{self._broker.topic}/status", "offline", qos=1, retain=True)
            _all_published([*self._waiting, last], CLOSE_TIMEOUT)
        self._client.disconnect()
        self._client.loop_stop()
        self._count_published()
        self._dropped += len(self._waiting)
        if self._waiting:
            self._fault = "the last results were not sent in time"
        self._waiting.clear()
        if self._dropped:
            log.warning("%s: %d results were dropped", self._broker.name, self._dropped)

    def _count_published(self) -> None:
        while self._waiting and _over(self._waiting[0]):
            if self._waiting.popleft().rc == MQTT_ERR_SUCCESS:
                self._written += 1
            else:
                self._dropped += 1

    def _undelivered(self, reason: str) -> WriteError:
        return WriteError(
            f"{self._broker.name}: could not deliver an event ({reason}), expected a broker that accepts it; check "
            "address and network"
        )

    def _on_connect(self, client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._report(f"the broker refused the connection ({reason})")
            return
        self._connected.set()
        client.publish(f"{self._broker.topic}/status", "online", qos=1, retain=True)
        for topic, payload in self._greeting().items():
            client.publish(topic, payload, qos=1, retain=True)
        if self._dropped:
            client.publish(f"{self._broker.topic}/dropped", str(self._dropped), qos=1, retain=True)
        if self._reported:
            self._reported = False
            dropped = f"; {self._dropped} results were dropped so far" if self._dropped else ""
            log.warning("%s: connected%s", self._broker.name, dropped)

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self._report("no broker answers" + (", or its certificate is not trusted" if self._broker.tls else ""))

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._connected.clear()
        if reason.is_failure:
            self._report(f"the connection broke ({reason})")

    def _report(self, fault: str) -> None:
        """Log a fault once, not at every attempt."""
        self._trouble = fault
        if not self._reported:
            self._reported = True
            log.warning("%s: %s; %s", self._broker.name, fault, self._away)


def _over(info: MQTTMessageInfo) -> bool:
    """Whether a message was published, or lost with its connection."""
    try:
        return info.is_published()
    except (RuntimeError, ValueError):  # paho's way to say that it will never be
        return True


def _all_published(messages: Sequence[MQTTMessageInfo], seconds: float) -> bool:
    """Wait until all messages are published or lost; False after `seconds`."""
    end = monotonic() + seconds
    for info in messages:
        with suppress(RuntimeError, ValueError):  # lost
            info.wait_for_publish(max(0.0, end - monotonic()))
        if not _over(info):
            return False
    return True
