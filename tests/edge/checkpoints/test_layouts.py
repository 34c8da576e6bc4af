"""Every layout loads as what its authors compute, or is refused by name: none is silently wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from aselect_edge.backbones import load_backbone
from aselect_edge.backbones.single_file import is_diffusers_file
from aselect_runtime.errors import InputError
from aselect_runtime.records import Tap
from tests.edge.checkpoints import references as ref
from tests.edge.checkpoints.cases import REFUSED, RIGHT
from tests.edge.checkpoints.making import Case

TAP, TAU = Tap.parse("1.mlp"), 0.3


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    counted: Counter[str] = Counter()
    yield counted
    parts = ", ".join(f"{what} {counted[what]}" for what in ("right", "refused by name", "silently wrong"))
    print(f"\ncheckpoint layouts: tried {sum(counted.values())}, {parts}, other errors {counted['another error']}")


def outcome(case: Case, folder: Path, vae: str) -> tuple[str, str]:
    """What became of a checkpoint, and the message where it was refused."""
    source, right = case.make(folder)
    condition = ref.sd3_condition() if "sd3" in case.name or "sd35" in case.name else None
    condition = ref.prompt() if "pixart" in case.name else condition
    try:
        heads = ref.HEADS if source.is_file() and not is_diffusers_file(source) else None
        options = {"heads": heads, "vae": vae, "condition": condition, **case.options}
        loaded = load_backbone(str(source), **options)
    except InputError as error:
        return "refused by name" if case.refusal else "another error", str(error)
    x0, eps = ref.images()
    noise = loaded.schedule.levels([1000 * TAU])[0]
    x, t = noise.alpha * x0 + noise.sigma * eps, torch.full((ref.COUNT,), noise.model_timestep)
    given = {name: value.expand(ref.COUNT, *value.shape[1:]) for name, value in loaded.condition.items()}
    with torch.no_grad():
        got = loaded.model.features(x, t, given, [TAP])[TAP]
        same = right is not None and torch.allclose(got, right(x0, eps, TAU), rtol=1e-3, atol=1e-3)
    return "right" if same and not case.refusal else "silently wrong", ""


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case.name)
def test_it_loads_as_its_authors_compute(case: Case, tmp_path: Path, vae: str, tally: Counter[str]) -> None:
    what, message = outcome(case, tmp_path, vae)
    tally[what] += 1
    assert what == "right", message


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_it_is_refused_by_name(case: Case, tmp_path: Path, vae: str, tally: Counter[str]) -> None:
    what, message = outcome(case, tmp_path, vae)
    assert case.refusal is not None
    named = re.search(case.refusal, message) is not None
    tally[what if named or what == "silently wrong" else "another error"] += 1
    assert what == "refused by name"
    assert named, message
    assert "\n" not in message
    assert "download it again" not in message


def test_there_are_enough_of_them() -> None:
    assert len(RIGHT) + len(REFUSED) >= 60
    assert len({case.name for case in (*RIGHT, *REFUSED)}) == len(RIGHT) + len(REFUSED)
