"""Loading backbones: every folder that diffusers writes, and one clear line for what is not such a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import aselect_weights
from aselect_edge.backbones import Backbone, DiT, DiTConfig, load_backbone, save_backbone
from aselect_edge.backbones.dit_config import diffusers_keys
from aselect_edge.backbones.folders import WEIGHTS
from aselect_edge.backbones.noise import DIT_SCHEDULE
from aselect_runtime.errors import InputError, IntegrityError

SMALL: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "in_channels": 3,
    "patch_size": 4,
    "sample_size": 16,
    "num_embeds_ada_norm": 3,
}


@pytest.fixture(scope="module")
def theirs() -> DiTTransformer2DModel:
    torch.manual_seed(1)
    return DiTTransformer2DModel(**SMALL).eval()


@pytest.fixture
def folder(backbone_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(backbone_folder, tmp_path / "backbone"))


def _same_weights(model: Backbone, state: dict[str, torch.Tensor]) -> None:
    own = model.state_dict()
    for ours, name in model.keys().items():
        torch.testing.assert_close(own[ours], state[name].float())


@pytest.mark.parametrize("shard", ["10GB", "20KB"])
@pytest.mark.parametrize("bare", [True, False])
def test_folders_of_diffusers_load(theirs: DiTTransformer2DModel, tmp_path: Path, shard: str, bare: bool) -> None:
    theirs.save_pretrained(tmp_path if bare else tmp_path / "transformer", max_shard_size=shard)
    if not bare:
        DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path / "scheduler")
    assert (len(list(tmp_path.rglob("*.safetensors"))) > 1) == (shard == "20KB")
    loaded = load_backbone(str(tmp_path))
    _same_weights(loaded.model, theirs.state_dict())
    assert not loaded.model.training
    assert loaded.schedule.config["beta_schedule"] == ("linear" if bare else "squaredcos_cap_v2")


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (
            {"revision": "main"},
            "got revision main with the local .*, where it has no effect, expected it only with a hub",
        ),
        ({"heads": 2}, "got num heads 2 with .*, expected it only with a single file"),
        ({"sit_time": "sigma"}, "got sit time sigma with .*, expected it only with a single file"),
        ({"sit_path": "vp"}, "got sit path vp with .*, expected it only with a single file"),
    ],
)
@pytest.mark.parametrize("source", ["shipped", ""])
def test_options_without_effect_are_refused(backbone_folder: Path, source: str, option: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_backbone(source or str(backbone_folder), **option)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"family": "sit"}, "family sit"),
        ({"vae": "folder"}, "vae folder"),
        ({"heads": 2}, "num heads 2"),
        ({"revision": "main"}, "revision main"),
        ({"sit_path": "vp"}, "sit path vp"),
        ({"label": 3}, "label 3"),
        ({"condition": {"label": torch.zeros(1)}}, "condition"),
    ],
)
def test_a_bundle_has_its_own_options(option: Any, named: str) -> None:
    bundle = str(aselect_weights.seg)
    with pytest.raises(InputError, match=f"got {named} with the bundle .*, which has its own, where it has no effect"):
        load_backbone(bundle, **option)


def test_folders_of_before_diffusers_split_its_class_load(folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    named = json.loads(config.read_text())
    expected = load_backbone(str(folder)).model.state_dict()
    config.write_text(json.dumps({**named, "_class_name": "Transformer2DModel", "num_vector_embeds": None}))
    loaded = load_backbone(str(folder)).model
    assert loaded.family == "dit"
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    config.write_text(json.dumps({**named, "_class_name": "Transformer2DModel", "norm_type": "ada_norm"}))
    with pytest.raises(InputError, match="got 'Transformer2DModel', expected one of DiTTransformer2DModel"):
        load_backbone(str(folder))


@pytest.mark.parametrize("tied", [True, False])
def test_diffusers_loads_what_is_saved(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(2)
    model = DiT(DiTConfig(**SMALL), tied=tied).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_backbone(model, DIT_SCHEDULE, tmp_path, torch.float32)
    theirs, info = DiTTransformer2DModel.from_pretrained(tmp_path / "transformer", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([7, 800]), torch.tensor([1, 3])
    with torch.no_grad():
        torch.testing.assert_close(model(x, t, y), theirs.eval()(x, t, y).sample, rtol=1e-5, atol=1e-5)
    assert DDPMScheduler.from_pretrained(tmp_path / "scheduler").config.beta_end == 0.02
    with torch.no_grad():
        torch.testing.assert_close(load_backbone(str(tmp_path)).model(x, t, y), model(x, t, y))


def test_half_precision_files_load_as_floats(tmp_path: Path) -> None:
    model = DiT(DiTConfig(**SMALL))
    save_backbone(model, DIT_SCHEDULE, tmp_path)
    assert {v.dtype for v in load_file(tmp_path / "transformer" / WEIGHTS).values()} == {torch.float16}
    loaded = load_backbone(str(tmp_path)).model
    assert {v.dtype for v in loaded.state_dict().values()} == {torch.float32}
    state = {name: model.state_dict()[ours].half() for ours, name in diffusers_keys(model.config).items()}
    _same_weights(loaded, state)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"not weights at all"])
def test_corrupt_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "transformer" / WEIGHTS).write_bytes(content)
    with pytest.raises(IntegrityError, match="expected safetensors"):
        load_backbone(str(folder))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_weights_truncated_anywhere_are_refused(folder: Path, backbone_folder: Path, data: st.DataObject) -> None:
    whole = (backbone_folder / "transformer" / WEIGHTS).read_bytes()
    (folder / "transformer" / WEIGHTS).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(IntegrityError):
        load_backbone(str(folder))


def test_a_missing_or_misshapen_tensor_is_named(folder: Path) -> None:
    path = folder / "transformer" / WEIGHTS
    state = load_file(path)
    name = "transformer_blocks.1.attn1.to_q.weight"
    save_file({**state, name: torch.zeros(3, 3)}, path)
    with pytest.raises(IntegrityError, match=rf"got shape \[3, 3\] for {name}, expected \[32, 32\]"):
        load_backbone(str(folder))
    del state[name]
    save_file(state, path)
    with pytest.raises(IntegrityError, match=f"got no tensor {name}"):
        load_backbone(str(folder))


def test_missing_weights_and_shards_are_named(folder: Path, theirs: DiTTransformer2DModel, tmp_path: Path) -> None:
    (folder / "transformer" / WEIGHTS).unlink()
    with pytest.raises(InputError, match=f"got no {WEIGHTS}"):
        load_backbone(str(folder))
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    lost = sorted((tmp_path / "shards").glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(InputError, match=f"got no {lost.name}"):
        load_backbone(str(tmp_path / "shards"))


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "../../secret.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "x" * 300}},
        {"weight_map": {"a": 3}},
        {"weight_map": ["a"]},
        {"weight_map": {}},
        {},
        [],
        "text",
    ],
)
def test_a_hostile_index_is_refused(folder: Path, index: object) -> None:
    (folder / "transformer" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="expected"):
        load_backbone(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"_class_name": "FluxTransformer2DModel"},
        {"_class_name": None},
        {"norm_type": "layer_norm"},
        {"activation_fn": "geglu"},
        {"in_channels": 4},
        {"num_layers": "three"},
        {"num_layers": 0},
        {"num_layers": 10**9},
        {"patch_size": None},
        {"sample_size": -16},
        {"norm_eps": "small"},
    ],
)
def test_other_models_and_invalid_files_are_refused(folder: Path, change: dict[str, object]) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=r"got .*expected"):
        load_backbone(str(folder))


@pytest.mark.parametrize(
    "kind",
    [
        "FluxTransformer2DModel",
        "Lumina2Transformer2DModel",
        "LuminaNextDiT2DModel",
        "HunyuanDiT2DModel",
        "AuraFlowTransformer2DModel",
        "QwenImageTransformer2DModel",
        "ZImageTransformer2DModel",
        "CogView3PlusTransformer2DModel",
        "CogView4Transformer2DModel",
        "CogVideoXTransformer3DModel",
        "SanaVideoTransformer3DModel",
        "UNet2DConditionModel",
    ],
)
def test_a_model_of_another_family_is_refused_by_its_name(folder: Path, kind: str) -> None:
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({"_class_name": kind, "num_layers": 2}))
    with pytest.raises(InputError) as refused:
        load_backbone(str(folder))
    message = str(refused.value)
    assert f"got '{kind}', expected one of " in message
    assert "PRXTransformer2DModel, SanaTransformer2DModel" in message
    assert "\n" not in message


def test_a_pipeline_with_a_unet_is_refused_by_that_name(folder: Path) -> None:
    (folder / "transformer").rename(folder / "unet")
    with pytest.raises(InputError, match=r"got a pipeline with a U-Net, expected one with a transformer; [^\n]+$"):
        load_backbone(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
@pytest.mark.parametrize("name", ["transformer/config.json", "scheduler/scheduler_config.json"])
def test_corrupt_configurations_are_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(IntegrityError, match=rf"{name}: .*expected"):
        load_backbone(str(folder))


@pytest.mark.parametrize("source", ["no/such/folder", "./none", "/none/at", "~/x", "name"])
def test_a_source_that_is_neither_folder_nor_hub_id_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="expected a diffusers folder or a hub id"):
        load_backbone(source)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_backbone(str(tmp_path))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub with the repositories below this folder; a snapshot holds what the client's own filter lets through."""
    import huggingface_hub
    from huggingface_hub.utils._paths import filter_repo_objects

    def snapshot(source: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert revision == "v1"
        files = [str(path.relative_to(tmp_path / source)) for path in (tmp_path / source).rglob("*") if path.is_file()]
        for name in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            target = tmp_path / "snapshots" / source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / source / name, target)
        return str(tmp_path / "snapshots" / source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return tmp_path


@pytest.mark.parametrize("torch_format", [True, False])
def test_a_hub_id_takes_what_a_backbone_needs(hub: Path, theirs: DiTTransformer2DModel, torch_format: bool) -> None:
    repository = hub / "someone" / "dit"
    theirs.save_pretrained(repository / "transformer", safe_serialization=not torch_format)
    DDPMScheduler().save_pretrained(repository / "scheduler")
    other = ["unet/diffusion_pytorch_model.safetensors", "all_in_one.safetensors", "text_encoder/model.safetensors"]
    variants = [f"transformer/diffusion_pytorch_model.fp16{shard}.safetensors" for shard in ("", "-00001-of-00002")]
    for name in [*other, *variants]:
        if torch_format and name in variants:
            continue
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).touch()
    loaded = load_backbone("someone/dit", "v1")
    _same_weights(loaded.model, theirs.state_dict())
    assert (loaded.source, loaded.revision) == ("someone/dit", "v1")
    assert loaded.schedule.config["_class_name"] == "DDPMScheduler"
    taken = {str(path.relative_to(hub / "snapshots/someone/dit")) for path in (hub / "snapshots").rglob("*.*")}
    weights = "bin" if torch_format else "safetensors"
    assert taken == {
        "transformer/config.json",
        f"transformer/diffusion_pytorch_model.{weights}",
        "scheduler/scheduler_config.json",
    }


def _taken(hub: Path, repository: str) -> set[str]:
    folder = hub / "snapshots" / repository
    return {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file()}


def test_a_hub_id_of_half_precision_alone_loads(hub: Path, theirs: DiTTransformer2DModel) -> None:
    theirs.save_pretrained(hub / "someone/half/transformer", variant="fp16", max_shard_size="20KB")
    loaded = load_backbone("someone/half", "v1")
    _same_weights(loaded.model, theirs.state_dict())


def test_torch_weights_are_taken_where_another_part_has_safetensors(hub: Path, theirs: DiTTransformer2DModel) -> None:
    repository = hub / "someone" / "mixed"
    theirs.save_pretrained(repository / "transformer", safe_serialization=False)
    (repository / "vae").mkdir()
    (repository / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    (repository / "vae" / WEIGHTS).touch()
    with pytest.raises(InputError, match="vae"):  # an empty file is no autoencoder; the transformer is there by then
        load_backbone("someone/mixed", "v1")
    assert "transformer/diffusion_pytorch_model.bin" in _taken(hub, "someone/mixed")


def test_safetensors_are_taken_alone_where_both_are(hub: Path, theirs: DiTTransformer2DModel) -> None:
    repository = hub / "someone" / "both"
    theirs.save_pretrained(repository / "transformer")
    (repository / "transformer" / "diffusion_pytorch_model.bin").touch()
    _same_weights(load_backbone("someone/both", "v1").model, theirs.state_dict())
    assert "transformer/diffusion_pytorch_model.bin" not in _taken(hub, "someone/both")


def test_a_hub_id_with_shards_in_its_own_folder_loads(hub: Path, theirs: DiTTransformer2DModel) -> None:
    theirs.save_pretrained(hub / "someone/bare", max_shard_size="20KB")
    _same_weights(load_backbone("someone/bare", "v1").model, theirs.state_dict())


@pytest.mark.parametrize("place", ["transformer", "."])
def test_an_unsupported_hub_id_is_refused_before_its_weights_are_fetched(hub: Path, place: str) -> None:
    folder = hub / "someone" / "flux" / place
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    (folder / WEIGHTS).touch()
    with pytest.raises(InputError, match="got 'FluxTransformer2DModel', expected one of DiT"):
        load_backbone("someone/flux", "v1")
    assert not any(name.endswith("safetensors") for name in _taken(hub, "someone/flux"))


def test_a_hub_id_of_a_torch_file_says_what_to_do(hub: Path) -> None:
    (hub / "someone" / "sit").mkdir(parents=True)
    (hub / "someone" / "sit" / "SiT-XL-2-256.pt").touch()
    with pytest.raises(InputError, match="download one and give its path"):
        load_backbone("someone/sit", "v1")
