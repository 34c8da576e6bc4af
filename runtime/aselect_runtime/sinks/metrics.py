"""metrics://host:port, metrics for Prometheus at /metrics: frames, drops, reconnects, latency, shares of classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from time import monotonic

from aselect_runtime.addresses import split_address
from aselect_runtime.errors import InputError, MissingDependencyError
from aselect_runtime.health import Health
from aselect_runtime.records import Manifest
from aselect_runtime.redaction import redact
from aselect_runtime.results import Result
from aselect_runtime.sinks.host_names import further_names
from aselect_runtime.sinks.metrics_server import serving
from aselect_runtime.sinks.sink import Write

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, Histogram, generate_latest
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingDependencyError(
        "got no prometheus_client, expected it for metrics; pip install 'aselect-runtime[metrics]'"
    ) from error

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Histogram limits in seconds: from a fast engine to a stalled camera, including about 1/60 and 1/30 s."""
EXAMPLE = "metrics://127.0.0.1:9090 or metrics://0.0.0.0:9090?host=camera.example.org"
SILENCE = 15.0
"""Seconds without a result after which a source does not count as up. Health snapshots come with results: without new
results the last snapshot would still report a working source. Longer than the pipeline's time limit for a frame."""


@contextmanager
def metrics(uri: str, manifest: Manifest) -> Iterator[Write]:
    """Serves `metrics://host:port`; raises InputError if the address cannot be bound."""
    host, port, names = _address(uri)
    figures = Metrics(manifest)
    with ExitStack() as stack:
        try:
            stack.enter_context(serving(host, port, figures.content_type, figures.exposition, names))
        except OSError as error:
            raise InputError(
                f"{redact(uri)}: cannot serve metrics there ({error.strerror}), expected a free port of this machine; "
                "choose another port",
                parameter="output",
            ) from error
        yield figures


class Metrics(Collector):
    """The metrics of one run, in a separate registry. Labels contain only the printable names of sources and sinks."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, manifest: Manifest) -> None:
        self.registry = CollectorRegistry()
        self._manifest = manifest
        self._health = Health()
        self._heard: dict[str, float] = {}
        self._stages = Histogram(
            "aselect_stage_seconds",
            "Time that a frame spent in a stage.",
            ["source", "stage"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._age = Histogram(
            "aselect_result_age_seconds",
            "Time from the capture of a frame to its result.",
            ["source"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._latest = Gauge(
            "aselect_last_result_timestamp_seconds", "Unix time of the last result.", ["source"], registry=self.registry
        )
        name, text = {
            "seg": ("aselect_class_area_ratio", "Share of the last frame that a class covers."),
            "cls": ("aselect_class_score", "Score of a class for the last frame; 0 except for the top classes."),
        }[manifest.task]
        self._classes = Gauge(name, text, ["source", "class"], registry=self.registry)
        self.registry.register(self)

    def tell(self, health: Health) -> None:
        """Store a health snapshot that comes without a result."""
        self._health = health

    def observe(self, result: Result) -> None:
        """Count one result."""
        # Of the input: each video of a folder has a name of its own.
        sources = result.health.sources
        source = sources[result.stream].name if result.stream < len(sources) else result.captured.source.name
        self._health = result.health
        self._heard[source] = monotonic()
        for stage, milliseconds in result.latency_ms.items():
            self._stages.labels(source, stage).observe(milliseconds / 1000)
        self._age.labels(source).observe(max(0.0, result.t_result - result.captured.t_capture))
        self._latest.labels(source).set(result.t_result)
        for name, share in self._shares(result).items():
            self._classes.labels(source, name).set(share)

    __call__ = observe

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        """The totals of the latest health snapshot (Prometheus' interface of a collector)."""
        health = self._health
        sources, sinks = health.sources, health.sinks
        silent = monotonic() - SILENCE
        up = _all((s.name, s.state == "live" and self._heard.get(s.name, -inf) > silent) for s in sources)
        rate = health.fps if max(self._heard.values(), default=-inf) > silent else 0.0
        yield _totals("aselect_frames", "Frames with a result.", "source", ((s.name, s.frames) for s in sources))
        yield _totals(
            "aselect_frames_dropped",
            "Frames that were replaced by newer ones before inference.",
            "source",
            ((s.name, s.dropped) for s in sources),
        )
        yield _totals(
            "aselect_frames_repeated",
            "Frames that were not inferred, because nothing moved.",
            "source",
            ((s.name, s.repeated) for s in sources),
        )
        yield _totals(
            "aselect_reconnects", "Reconnects of a source.", "source", ((s.name, s.reconnects) for s in sources)
        )
        yield _totals(
            "aselect_sink_results", "Results that an output wrote.", "sink", ((s.name, s.written) for s in sinks)
        )
        yield _totals(
            "aselect_sink_dropped", "Results that an output dropped.", "sink", ((s.name, s.dropped) for s in sinks)
        )
        yield _gauges("aselect_source_up", "1 while a source delivers frames that get results.", "source", up)
        working = _all((s.name, s.state == "working") for s in sinks)
        yield _gauges("aselect_sink_up", "1 while an output works.", "sink", working)
        yield GaugeMetricFamily("aselect_fps", "Results per second.", rate)
        yield GaugeMetricFamily("aselect_stalled_stages", "Stages stalled in one operation.", len(health.stalled))
        yield _gauges(
            "aselect_temperature_celsius", "Temperature of a thermal zone.", "zone", dict(health.temperatures)
        )

    def _shares(self, result: Result) -> dict[str, float]:
        if self._manifest.task == "seg":
            return result.areas
        best = result.top
        return {item.name: best.get(item.name, 0.0) for item in self._manifest.classes}


def _address(uri: str) -> tuple[str, int, frozenset[str]]:
    split = split_address(uri, EXAMPLE)
    parts, port = split.parts, split.port
    names = further_names(parts.query)
    odd = parts.fragment or parts.username
    if not parts.hostname or not port or odd or names is None or parts.path.strip("/") not in {"", "metrics"}:
        raise InputError(f"{redact(uri)}: got no address to serve metrics at, expected for example {EXAMPLE}")
    return parts.hostname, port, names


def _all(states: Iterable[tuple[str, bool]]) -> dict[str, bool]:
    """Whether all of a name are: two cameras may have one printable name, and an alarm must see either."""
    found: dict[str, bool] = {}
    for name, good in states:
        found[name] = good and found.get(name, True)
    return found


def _totals(name: str, text: str, label: str, values: Iterable[tuple[str, int]]) -> CounterMetricFamily:
    """A counter; inputs of the same name, such as the same video twice, are added up."""
    family = CounterMetricFamily(name, text, labels=[label])
    sums: dict[str, int] = defaultdict(int)
    for key, value in values:
        sums[key] += value
    for key, value in sums.items():
        family.add_metric([key], value)
    return family


def _gauges(name: str, text: str, label: str, values: dict[str, float] | dict[str, bool]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family
