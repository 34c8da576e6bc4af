"""Records: what is written is read back, and nothing but RecordError comes out of what others wrote."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aselect_runtime.errors import InputError, RecordError
from aselect_runtime.records import (
    COMPONENTS,
    BackboneSource,
    Bundle,
    ClassInfo,
    DataFingerprint,
    Engine,
    HeadSpec,
    Manifest,
    Noise,
    Parity,
    Record,
    Report,
    Resize,
    Score,
    Selection,
    Tap,
    TensorSpec,
)

UNIT = st.floats(0, 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TURNS = "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters=TURNS), min_size=1, max_size=12
)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
NOISES = st.builds(Noise, alpha=UNIT, sigma=UNIT, model_timestep=st.floats(0, 1000))
TAPS = st.builds(Tap, block=st.integers(0, 99), component=st.sampled_from(COMPONENTS))
RESIZES = st.builds(
    Resize, mode=st.sampled_from(["stretch", "letterbox"]), interpolation=st.sampled_from(["area", "linear"])
)
CLASSES = st.lists(
    st.builds(ClassInfo, name=NAMES, colour=st.tuples(*[st.integers(0, 255)] * 3)),
    min_size=1,
    max_size=3,
    unique_by=lambda info: info.name,
).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)

SELECTIONS = st.builds(
    Selection,
    backbone=NAMES,
    noise=NOISES,
    tap=TAPS,
    strategy=NAMES,
    scores=st.lists(st.builds(Score, noise=NOISES, tap=TAPS, value=FINITE), max_size=2).map(tuple),
    data=st.none() | st.builds(DataFingerprint, images=st.integers(0, 9), sha256=HASHES),
    seed=st.integers(0, 9),
)
BUNDLES = st.builds(
    Bundle,
    task=st.sampled_from(["seg", "cls"]),
    classes=CLASSES,
    imgsz=st.tuples(st.integers(8, 99), st.integers(8, 99)),
    resize=RESIZES,
    backbone=st.builds(
        BackboneSource, family=st.just("dit"), config=st.dictionaries(NAMES, JSON, max_size=2), source=NAMES
    ),
    taps=st.lists(TAPS, min_size=1, max_size=2).map(tuple),
    noise=NOISES,
    noise_seed=st.none() | st.integers(0, 9),
    head=st.builds(HeadSpec, kind=st.sampled_from(["linear", "conv"]), channels=st.integers(1, 64)),
    metrics=st.dictionaries(NAMES, FINITE, max_size=2),
    files=st.dictionaries(NAMES, HASHES, max_size=2),
)
MANIFESTS = st.builds(
    Manifest,
    task=st.just("seg"),
    classes=CLASSES,
    resize=RESIZES,
    input=st.just(TensorSpec(name="frames", dtype="uint8", shape=(1, 8, 8, 3))),
    outputs=st.just((TensorSpec(name="class_map", dtype="uint8", shape=(1, 8, 8)),)),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    taps=st.lists(TAPS, max_size=2).map(tuple),
    noise=NOISES,
    files=st.dictionaries(NAMES, HASHES, max_size=2),
    engines=st.lists(
        st.builds(
            Engine,
            file=NAMES,
            sha256=HASHES,
            onnx_sha256=HASHES,
            builder=st.just("tensorrt"),
            version=NAMES,
            target=st.just("sm87"),
        ),
        max_size=1,
    ).map(tuple),
)
REPORTS = st.builds(
    Report,
    parity=st.lists(
        st.builds(
            Parity,
            graph=NAMES,
            reference=NAMES,
            frames=st.integers(0, 9),
            max_error=st.floats(),
            agreement=UNIT,
            passed=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
    accuracy=st.dictionaries(NAMES, FINITE, max_size=2),
)
RECORDS = st.one_of(SELECTIONS, BUNDLES, MANIFESTS, REPORTS)
KINDS: tuple[type[Record], ...] = (Selection, Bundle, Manifest, Report)
SELECTION = Selection(
    backbone="b", noise=Noise(alpha=1, sigma=0, model_timestep=0), tap=Tap(block=3, component="query"), strategy="hfr"
)


@settings(max_examples=60, deadline=None)
@given(record=RECORDS)
def test_what_is_written_is_read_back(record: Record) -> None:
    assert type(record).parse(record.to_json()) == record


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), text=st.text(max_size=60) | JSON.map(json.dumps))
def test_any_text_is_a_record_or_a_record_error(kind: type[Record], text: str) -> None:
    with contextlib.suppress(RecordError):
        assert isinstance(kind.parse(text), kind)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in _places(item, (*at, key)))]


@settings(max_examples=100, deadline=None)
@given(record=RECORDS, junk=JSON | st.floats(), data=st.data())
def test_a_record_damaged_anywhere_is_read_or_refused(record: Record, junk: Any, data: st.DataObject) -> None:
    content = json.loads(record.to_json())
    *way, last = data.draw(st.sampled_from(_places(content)[1:]))
    target = content
    for key in way:
        target = target[key]
    if data.draw(st.booleans()):
        target[last] = junk
    else:
        del target[last]
    try:
        again = type(record).parse(json.dumps(content))
    except RecordError:
        return
    assert type(record).parse(again.to_json()) == again


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, len(SELECTION.to_json()) - 3))
def test_a_truncated_record_is_refused(cut: int) -> None:
    with pytest.raises(RecordError, match="expected"):
        Selection.parse(SELECTION.to_json()[:cut])


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 100_000, '{"seed": NaN}', "\ufeff{}", '{"backbone": "\\ud800"}'])
def test_hostile_json_is_refused(text: str) -> None:
    with pytest.raises(RecordError):
        Selection.parse(text)


@pytest.mark.parametrize("schema", ["selection/2.0", "selection/0.9", "selection/1.9", "bundle/1.0", "", 1, None])
def test_other_schemas_are_refused(schema: object) -> None:
    content = {**json.loads(SELECTION.to_json()), "schema": schema}
    with pytest.raises(RecordError, match=r"expected selection/1\.3"):
        Selection.parse(json.dumps(content))


def test_a_record_without_a_schema_is_refused() -> None:
    content = json.loads(SELECTION.to_json())
    del content["schema"]
    with pytest.raises(RecordError, match="schema"):
        Selection.parse(json.dumps(content))


def test_an_older_minor_version_loads_and_is_written_as_the_current() -> None:
    class Later(Selection):
        version = (1, 4)
        extra: str = "default of the new field"

    later = Later.parse(SELECTION.to_json())
    assert later.extra == "default of the new field"
    assert json.loads(later.to_json())["schema"] == "selection/1.4"
    with pytest.raises(RecordError, match=r"got schema 'selection/1\.4'"):
        Selection.parse(later.to_json())


@pytest.mark.parametrize("field", ["alpha", "sigma", "model_timestep"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_noise_is_finite_and_in_range(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Noise(**{"alpha": 1.0, "sigma": 0.0, "model_timestep": 0.0, field: value})


def test_a_nan_score_is_refused() -> None:
    content = json.loads(SELECTION.to_json())
    content["scores"] = [{"noise": content["noise"], "tap": content["tap"], "value": float("nan")}]
    with pytest.raises(RecordError, match=r"scores\.0\.value"):
        Selection.parse(json.dumps(content))


def test_a_nan_error_of_parity_counts_as_infinite() -> None:
    fields: dict[str, Any] = {"graph": "a", "reference": "b", "frames": 1, "agreement": 1, "passed": False}
    assert Parity(max_error=float("nan"), **fields).max_error == float("inf")


@given(tap=TAPS)
def test_a_tap_is_written_as_it_is_parsed(tap: Tap) -> None:
    assert Tap.parse(str(tap)) == tap


@given(text=st.text(max_size=12) | st.from_regex(r"-?\d{0,6}\.?[a-z]{0,8}", fullmatch=True))
def test_any_tap_text_is_a_tap_or_an_input_error(text: str) -> None:
    try:
        tap = Tap.parse(text)
    except InputError:
        return
    assert tap.component in COMPONENTS


def test_records_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SELECTION.seed = 1


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "selection.json"
    with pytest.raises(RecordError, match=r"selection\.json: no such file"):
        Selection.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match=r"selection\.json: unreadable"):
        Selection.load(path)
    with pytest.raises(RecordError, match="unreadable"):
        Selection.load(tmp_path)
    SELECTION.save(path)
    assert Selection.load(path) == SELECTION
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["\x1b[2Jsky", "a\nb", "\x9b31m", "abc\u202efdp", "\x00"])
def test_a_class_name_cannot_send_control_codes_to_a_terminal(name: str) -> None:
    with pytest.raises(ValidationError, match="no control characters"):
        ClassInfo(name=name, colour=(0, 0, 0))
    assert ClassInfo(name="ciel d’été\u00a0bleu 空", colour=(0, 0, 0)).name
