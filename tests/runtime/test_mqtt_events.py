"""Events at a real mosquitto, as Home Assistant finds them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import Any, cast

import pytest

pytest.importorskip("paho.mqtt", reason="the extra `mqtt` is not installed")

from paho.mqtt.client import MQTT_ERR_NO_CONN, Client, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

from aselect_runtime.errors import InputError, WriteError
from aselect_runtime.pipeline.deliveries import Delivery, close_all
from aselect_runtime.rules import Rules
from aselect_runtime.sinks import mqtt as mqtt_module
from aselect_runtime.sinks.event_opening import open_events
from aselect_runtime.sinks.event_sink import EventContext
from tests.runtime.test_events import AT_ONCE, CONTEXT, RULES, _event
from tests.runtime.test_mqtt import _broker, _until, needs_mosquitto, silent_broker

TOPIC = "site/camera"
RULE = f"{TOPIC}/rules/light-left-0-0"


@contextmanager
def _listening(port: int) -> Iterator[list[tuple[str, bytes, bool]]]:
    """Collects (topic, payload, retained)."""
    heard: list[tuple[str, bytes, bool]] = []

    def on_message(_client: Client, _data: object, message: MQTTMessage) -> None:
        heard.append((message.topic, bytes(message.payload), message.retain))

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.subscribe("#", qos=1)
    client.loop_start()
    try:
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


def _of(heard: list[tuple[str, bytes, bool]], topic: str) -> list[bytes]:
    return [payload for name, payload, _ in heard if name == topic]


@needs_mosquitto
def test_an_event_is_a_binary_sensor_with_a_snapshot(tmp_path: Path, free_port: int) -> None:
    with _broker(free_port, tmp_path), _listening(free_port) as heard:
        with open_events(f"mqtt://127.0.0.1:{free_port}/{TOPIC}", CONTEXT) as deliver:
            _until(lambda: _of(heard, f"{RULE}/state") == [b"OFF"])
            deliver(_event())
            deliver(_event(end=1002.0))
        _until(lambda: _of(heard, f"{TOPIC}/status")[-1:] == [b"offline"])
        with _listening(free_port) as late:  # Home Assistant that starts afterwards
            _until(lambda: len(late) >= 6)
    assert _of(heard, f"{RULE}/state") == [b"OFF", b"ON", b"OFF"]
    assert [json.loads(text)["state"] for text in _of(heard, f"{TOPIC}/events")] == ["start", "end"]
    retained = {topic: payload for topic, payload, kept in late if kept}
    assert retained[f"{RULE}/state"] == b"OFF"
    assert retained[f"{RULE}/snapshot"].startswith(b"\xff\xd8")
    assert json.loads(retained[f"{RULE}/event"])["end"] == 1002.0
    (sensor,) = [json.loads(text) for topic, text in retained.items() if "/binary_sensor/" in topic]
    (image,) = [json.loads(text) for topic, text in retained.items() if "/image/" in topic]
    assert all(topic.count("/") == 4 for topic in retained if topic.startswith("homeassistant/"))
    assert (sensor["name"], sensor["state_topic"]) == ("light left", f"{RULE}/state")
    assert (sensor["json_attributes_topic"], sensor["availability_topic"]) == (f"{RULE}/event", f"{TOPIC}/status")
    assert (image["image_topic"], image["content_type"]) == (f"{RULE}/snapshot", "image/jpeg")
    assert sensor["device"]["identifiers"] == image["device"]["identifiers"]
    assert sensor["unique_id"] != image["unique_id"]


@needs_mosquitto
def test_events_of_a_time_without_broker_arrive_later(tmp_path: Path, free_port: int) -> None:
    uri = f"mqtt://127.0.0.1:{free_port}/{TOPIC}"
    delivery = Delivery(uri, lambda: open_events(uri, CONTEXT), AT_ONCE)
    delivery.start()
    delivery.offer(_event())
    delivery.offer(_event(end=1002.0))
    _until(lambda: delivery.health().state == "failed")
    assert (delivery.health().written, delivery.health().waiting) == (0, 1)
    with _broker(free_port, tmp_path), _listening(free_port) as heard:
        _until(lambda: len(_of(heard, f"{TOPIC}/events")) == 2)
        _until(lambda: _of(heard, f"{RULE}/state")[-2:] == [b"ON", b"OFF"])
        close_all([delivery])
    assert (delivery.health().state, delivery.health().written, delivery.health().dropped) == ("working", 2, 0)


@pytest.mark.parametrize("connects", [True, False])
def test_events_that_no_broker_acknowledges_are_not_delivered(
    connects: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mqtt_module, "CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr(mqtt_module, "ACKNOWLEDGE_TIMEOUT", 0.1)
    monkeypatch.setattr(mqtt_module, "CLOSE_TIMEOUT", 0.1)
    with silent_broker(connects=connects) as port, caplog.at_level(logging.WARNING):
        uri = f"mqtt://127.0.0.1:{port}/{TOPIC}"
        delivery = Delivery(uri, lambda: open_events(uri, CONTEXT), AT_ONCE)
        delivery.start()
        delivery.offer(_event())
        delivery.offer(_event(end=1002.0))
        close_all([delivery], seconds=1)
    health = delivery.health()
    assert (health.state, health.written, health.dropped) == ("failed", 0, 2)
    assert ("no acknowledgement" if connects else "no broker has answered") in health.fault
    assert "2 events could not be delivered" in caplog.text


@needs_mosquitto
def test_an_event_whose_acknowledgement_is_late_is_sent_once(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        _broker(free_port, tmp_path),
        _listening(free_port) as heard,
        open_events(f"mqtt://127.0.0.1:{free_port}/{TOPIC}", CONTEXT) as deliver,
    ):
        _until(lambda: _of(heard, f"{RULE}/state") == [b"OFF"])
        monkeypatch.setattr(mqtt_module, "ACKNOWLEDGE_TIMEOUT", 0.0)
        with suppress(WriteError):
            deliver(_event())
        monkeypatch.setattr(mqtt_module, "ACKNOWLEDGE_TIMEOUT", 10.0)
        deliver(_event())
        deliver(_event(end=1002.0))
        _until(lambda: _of(heard, f"{RULE}/state")[-1:] == [b"OFF"] and len(_of(heard, f"{RULE}/state")) > 2)
    assert [json.loads(text)["state"] for text in _of(heard, f"{TOPIC}/events")] == ["start", "end"]


@needs_mosquitto
def test_an_event_whose_connection_breaks_as_it_is_sent_is_sent_once(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[str] = []

    class Breaking(Client):
        """Its connection breaks when the event begins to be sent: after the check, before the first message."""

        def publish(self, topic: str, *args: Any, **options: Any) -> MQTTMessageInfo:
            if broken or topic != f"{TOPIC}/events":
                return super().publish(topic, *args, **options)
            broken.append(topic)
            connection, self._sock = self._sock, None
            info = super().publish(topic, *args, **options)
            assert info.rc == MQTT_ERR_NO_CONN
            self._sock = connection
            cast("socket", connection).shutdown(SHUT_RDWR)
            return info

    monkeypatch.setattr(mqtt_module, "Client", Breaking)
    with (
        _broker(free_port, tmp_path),
        _listening(free_port) as heard,
        open_events(f"mqtt://127.0.0.1:{free_port}/{TOPIC}", CONTEXT) as deliver,
    ):
        _until(lambda: _of(heard, f"{RULE}/state") == [b"OFF"])
        for event in (_event(), _event(end=1002.0)):
            try:
                deliver(event)
            except WriteError:
                deliver(event)  # as a delivery does
        _until(lambda: _of(heard, f"{RULE}/state")[-2:] == [b"ON", b"OFF"])
    assert broken
    assert [json.loads(text)["state"] for text in _of(heard, f"{TOPIC}/events")] == ["start", "end"]


@needs_mosquitto
def test_each_input_has_entities_of_its_own(tmp_path: Path, free_port: int) -> None:
    context = EventContext(RULES, ("door", "yard"))
    with (
        _broker(free_port, tmp_path),
        _listening(free_port) as heard,
        open_events(f"mqtt://127.0.0.1:{free_port}/{TOPIC}", context),
    ):
        _until(lambda: len([topic for topic, _, _ in heard if topic.startswith("homeassistant/")]) == 4)
    sensors = [json.loads(payload) for topic, payload, _ in heard if "/binary_sensor/" in topic]
    assert [sensor["name"] for sensor in sensors] == ["light left (door)", "light left (yard)"]
    assert len({sensor["unique_id"] for sensor in sensors}) == 2


def test_rules_whose_names_look_alike_do_not_share_a_topic() -> None:
    from aselect_runtime.sinks.mqtt_events import discovery, entities_of

    rules = Rules.model_validate(
        {"rules": [{"name": name, "class": "bright", "above": 0.5} for name in ("a b", "a-b", "ä")]}
    )
    assert len(discovery(TOPIC, entities_of(EventContext(rules, ("camera",))))) == 6


def test_topics_that_look_alike_do_not_share_an_entity() -> None:
    from aselect_runtime.sinks.mqtt_events import discovery, entities_of

    topics = ["site/door", "site-door", "site//door", "дача/двор", "дача/сад", "x" * 60 + "/a", "x" * 60 + "/b", "site"]
    places: list[str] = []
    identities: list[str] = []
    devices: set[str] = set()
    for topic in topics:
        rules = Rules.model_validate(
            {"rules": [{"name": "door-a" if topic == "site" else "a", "class": "bright", "above": 0.5}]}
        )
        for place, text in discovery(topic, entities_of(EventContext(rules, ("camera",)))).items():
            places.append(place)
            config = json.loads(text)
            identities.append(config["unique_id"])
            devices.update(config["device"]["identifiers"])
    assert len(set(places)) == len(set(identities)) == 2 * len(topics)
    assert len(devices) == len(topics)
    assert all(re.fullmatch(r"homeassistant(/[A-Za-z0-9_-]+){3}/config", place) for place in places)
    assert "aselect-site-door" in devices


def test_an_unusable_address_is_refused() -> None:
    with (
        pytest.raises(InputError, match="expected for example mqtt://") as caught,
        open_events("mqtt://u:pw@host/", CONTEXT),
    ):
        pass
    assert "pw" not in str(caught.value)
