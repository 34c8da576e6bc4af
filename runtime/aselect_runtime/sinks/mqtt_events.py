"""Events for an MQTT broker, mqtt(s)://[user[:password]@]host[:port]/topic, in the form that Home Assistant reads.

topic/status                   `online` or `offline`, retained; the broker publishes `offline` if this process fails
topic/events                   each event as JSON when it starts and when it has ended (QoS 1)
topic/rules/RULE/state         `ON` while an event is active, otherwise `OFF`, retained
topic/rules/RULE/event         the rule's latest event as JSON, retained
topic/rules/RULE/snapshot      its JPEG, retained
homeassistant/…/config         discovery: a binary sensor and an image for each rule and input, retained

RULE is the rule's name in plain characters, its index in the file and the index of the input: `door-0-1`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from aselect_runtime import __version__
from aselect_runtime.rules import Event
from aselect_runtime.rules.event import plain
from aselect_runtime.sinks.event_sink import Deliver, EventContext
from aselect_runtime.sinks.mqtt import Connection, Message
from aselect_runtime.sinks.mqtt_broker import Broker

PREFIX = "homeassistant"
"""Home Assistant's default topic prefix for discovery."""


@dataclass(frozen=True)
class Entity:
    """One rule on one input."""

    rule: str
    stream: int
    key: str
    name: str


@contextmanager
def mqtt_events(uri: str, context: EventContext) -> Iterator[Deliver]:
    """Publishes every event; raises WriteError if the broker has not acknowledged it."""
    broker = Broker.parse(uri)
    entities = entities_of(context)
    keys = {(entity.rule, entity.stream): entity.key for entity in entities}
    states = dict.fromkeys(keys.values(), "OFF")

    def greeting() -> dict[str, str]:
        now = {f"{broker.topic}/rules/{key}/state": state for key, state in states.items()}
        return {**discovery(broker.topic, entities), **now}

    connection = Connection(broker, greeting, "events wait until it is back")

    def deliver(event: Event) -> None:
        text = json.dumps(event.to_dict(), ensure_ascii=False)
        key = keys[event.rule, event.stream]
        states[key] = "ON" if event.end is None else "OFF"
        messages = [Message("events", text), Message(f"rules/{key}/event", text, retain=True)]
        if event.snapshot is not None:
            messages.append(Message(f"rules/{key}/snapshot", event.snapshot, retain=True))
        connection.send([*messages, Message(f"rules/{key}/state", states[key], retain=True)])

    try:
        yield deliver
    finally:
        connection.close()


def entities_of(context: EventContext) -> list[Entity]:
    """One entity for each rule and each input that the rule applies to."""
    several = len(context.sources) > 1
    return [
        Entity(
            rule.name,
            stream,
            f"{plain(rule.name)}-{place}-{stream}",
            f"{rule.name} ({source})" if several else rule.name,
        )
        for place, rule in enumerate(context.rules.rules)
        for stream, source in enumerate(context.sources)
        if rule.looks_at(stream)
    ]


def discovery(topic: str, entities: list[Entity]) -> dict[str, str]:
    """Home Assistant's configuration messages by topic."""
    node = _node(topic)
    device = {"identifiers": [f"aselect-{node}"], "name": topic, "model": "aselect-run", "sw_version": __version__}
    found = {}
    for entity in entities:
        place = f"{topic}/rules/{entity.key}"
        shared: dict[str, Any] = {"availability_topic": f"{topic}/status", "device": device}
        sensor = {
            "name": entity.name,
            "unique_id": f"aselect-{node}/{entity.key}",
            "state_topic": f"{place}/state",
            "json_attributes_topic": f"{place}/event",
            **shared,
        }
        image = {
            "name": f"{entity.name} snapshot",
            "unique_id": f"aselect-{node}/{entity.key}-snapshot",
            "image_topic": f"{place}/snapshot",
            "content_type": "image/jpeg",
            **shared,
        }
        for component, config in (("binary_sensor", sensor), ("image", image)):
            found[f"{PREFIX}/{component}/aselect-{node}/{entity.key}/config"] = json.dumps(config, ensure_ascii=False)
    return found


def _node(topic: str) -> str:
    """A name in plain characters that no other topic has: with a checksum unless only `/` is replaced, by `-`."""
    name = plain(topic)
    if name.replace("-", "/") == topic:
        return name
    return f"{name}-{crc32(topic.encode()):08x}"
