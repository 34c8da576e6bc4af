"""Every family's graph: exact, cut inside the tap's block, plain, taken by TensorRT; and the sizes it cannot take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiTTransformer2DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
)
from onnx import ModelProto

from aselect_edge.backbones import load_backbone
from aselect_edge.bundle import LoadedBundle, load_bundle, save_bundle, tap_model
from aselect_edge.heads import build_head
from aselect_export.exporting import ExportResult, export
from aselect_runtime.engines import build_engine
from aselect_runtime.engines.versions import available
from aselect_runtime.errors import InputError
from aselect_runtime.records import BackboneSource, Bundle, ClassInfo, HeadSpec, Noise, Resize, Selection, Tap
from aselect_runtime.scenes import CLASSES, COLOURS
from tests.edge import test_encoders, test_pixart, test_sd3
from tests.export.test_graph import FORBIDDEN, operations

SIZE = (32, 48)
"""Neither square nor the bundle's own size."""
TAP = Tap(block=2, component="query")
DIT: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 3, "num_embeds_ada_norm": 3}
LATENT: dict[str, Any] = {"in_channels": 4, "sample_size": 8, "patch_size": 2}
NORMS = {"dit": 4, "sit": 4, "sd3": 6, "pixart": 4}
"""LayerNormalization nodes of the two whole blocks; two of SD3's belong to its context."""


@dataclass(frozen=True)
class Made:
    """A family with random weights: its bundle and what became of it."""

    family: str
    bundle: LoadedBundle
    result: ExportResult

    def graph(self, name: str) -> ModelProto:
        return onnx.load(self.result.folder / name)


def transformers() -> dict[str, Callable[[], ModelMixin]]:
    dual = test_sd3.STYLES["sd3.5-medium"]
    return {
        "dit": lambda: DiTTransformer2DModel(**DIT, **LATENT),
        "sit": lambda: DiTTransformer2DModel(**DIT, **LATENT),
        "sd3": lambda: SD3Transformer2DModel(**test_sd3.SMALL | LATENT | dual | {"out_channels": 4}),
        "pixart": lambda: PixArtTransformer2DModel(**test_pixart.SMALL | LATENT | {"out_channels": 8}),
    }


def condition_of(family: str) -> dict[str, torch.Tensor] | None:
    if family == "sd3":
        return test_sd3.random_condition()
    return test_pixart.random_condition(test_pixart.SMALL["caption_channels"]) if family == "pixart" else None


def bundle_of(family: str, folder: Path) -> LoadedBundle:
    """A bundle whose backbone and autoencoder are diffusers' own classes with random weights."""
    torch.manual_seed(0)
    model = transformers()[family]()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(".norm_" in name), std=0.15)
    model.save_pretrained(folder / "transformer")
    tiny = family in ("sd3", "pixart")
    vae = AutoencoderTiny(**test_encoders.TINY) if tiny else AutoencoderKL(**test_encoders.KL)
    test_encoders.random(vae).save_pretrained(folder / "vae")
    condition = condition_of(family)
    backbone = load_backbone(str(folder), family=family, condition=condition)
    spec = HeadSpec(kind="linear", channels=16)
    head = build_head(spec, "seg", [backbone.model.width], len(CLASSES))
    noise = Noise(alpha=0.9, sigma=0.3, model_timestep=50.0 if family != "sit" else 0.9)
    record = Bundle(
        task="seg",
        classes=tuple(ClassInfo(name=n, colour=c) for n, c in zip(CLASSES, COLOURS, strict=True)),
        imgsz=(32, 32),
        resize=Resize(),
        backbone=BackboneSource(
            family=family,  # type: ignore[arg-type]
            config=backbone.model.to_json(),
            source=str(folder),
            condition="condition.safetensors" if condition else None,
        ),
        taps=(TAP,),
        noise=noise,
        head=spec,
    )
    selection = Selection(backbone=str(folder), noise=noise, tap=TAP, strategy="manual")
    save_bundle(folder / "bundle", record, selection, tap_model(backbone, head, record))
    return load_bundle(folder / "bundle")


@pytest.fixture(scope="module", params=["dit", "sit", "sd3", "pixart"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp(request.param)
    bundle = bundle_of(request.param, folder)
    return Made(request.param, bundle, export(bundle, "fp16", folder / "out", engine="none", batch=2, imgsz=SIZE))


def test_the_graph_answers_as_the_unfolded_model_with_its_autoencoder(made: Made) -> None:
    assert made.result.rung == "fp16"
    by_graph = {parity.graph: parity for parity in made.result.report.parity}
    assert by_graph["fp32"].max_error <= 1e-4
    assert made.result.manifest.input.shape == (2, *SIZE, 3)


def test_nothing_beyond_the_tap_is_in_the_graph(made: Made) -> None:
    graph = made.graph("model.fp32.onnx").graph
    last = [node.name for node in graph.node if node.name.startswith(f"block{TAP.block}.")]
    assert {name.rsplit(".", 1)[0] for name in last} == {f"block{TAP.block}.attention.{p}" for p in ("norm", "query")}
    weights = {w.name: tuple(w.dims) for w in graph.initializer if w.name.startswith(f"block{TAP.block}.")}
    width = made.bundle.reference().backbone.width
    assert {name: shape for name, shape in weights.items() if len(shape) > 1} == {
        f"block{TAP.block}.attention.query.weight": (width, width)
    }
    assert not [node.name for node in graph.node if node.name.startswith(f"block{TAP.block + 1}.")]
    blocks = [node for node in graph.node if node.name.startswith("block")]
    norms = [node for node in blocks if node.op_type == "LayerNormalization"]
    assert len(norms) == NORMS[made.family] + 1


def test_sd3_carries_its_context_no_further_than_it_is_read(made: Made) -> None:
    if made.family != "sd3":
        pytest.skip("only SD3 has a context stream")
    names = {node.name for node in made.graph("model.fp32.onnx").graph.node}
    shapes = {w.name: tuple(w.dims) for w in made.graph("model.fp32.onnx").graph.initializer}
    assert [name for name in names if name.startswith("block0.context_mlp")], "block 1 reads what block 0 makes of it"
    assert not [
        name for name in names if name.startswith(("block1.context_mlp", "block1.context_out", "block2.context"))
    ]
    assert shapes["block1.context_tokens.projection.weight"] == (24, 48), "keys and values, no queries"


def test_graphs_are_plain_and_named(made: Made) -> None:
    for name in ("model.onnx", "model.fp32.onnx"):
        model = made.graph(name)
        onnx.checker.check_model(model, full_check=True)
        assert not FORBIDDEN & set(operations(model)), name
        assert operations(model)["Gelu"] == sum(node.name.endswith("Gelu") for node in model.graph.node)
        assert operations(model)["Gelu"] >= TAP.block
        places = {node.name.split(".")[0] for node in model.graph.node if node.op_type != "Cast"}
        assert places <= {"frames", "encoder", "embed", "backbone", "block0", "block1", "block2", "head", "answer"}
        numbered = [w.name for w in model.graph.initializer if "val_" in w.name]
        assert not numbered


@pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize("name", ["model.onnx", "model.fp32.onnx"])
def test_tensorrt_builds_it(made: Made, name: str, tmp_path: Path) -> None:
    engine = build_engine(made.result.folder / name, tmp_path / "rtx.engine", "sm86", "rtx")
    assert engine.target == "sm86"
    assert (tmp_path / "rtx.engine").stat().st_size > 0


def test_a_size_that_the_family_cannot_take_is_refused(made: Made, tmp_path: Path) -> None:
    patch = 2 * made.bundle.reference().encoder.stride
    refused = [(patch * 2, patch * 3 + 1), (patch * 2, patch * 3 + patch // 2)]
    if made.family == "sd3":
        refused.append((patch * 2, patch * (test_sd3.SMALL["pos_embed_max_size"] + 1)))
    for size in refused:
        with pytest.raises(InputError, match="expected"):
            export(made.bundle, "fp32", tmp_path / "refused", imgsz=size, engine="none")
    assert list(tmp_path.iterdir()) == []
