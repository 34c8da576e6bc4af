"""Checkpoints written as people hold them, and what their authors compute from each."""

from __future__ import annotations

import datetime
import json
import pathlib
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.edge.checkpoints import references as ref
from tests.edge.checkpoints.references import Reference, State

Make = Callable[[Path], tuple[Path, Reference | None]]


@dataclass(frozen=True)
class Case:
    """A checkpoint: `make` writes it and says what is right; a `refusal` is the pattern of the error that is."""

    name: str
    make: Make
    refusal: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def zeros(state: Mapping[str, Tensor]) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def torch_file(
    wrap: Callable[[State], Any],
    name: str = "DiT-T-2.pt",
    sit: bool = False,
    bias: bool = True,
    qk_norm: bool = False,
    **how: Any,
) -> Make:
    """A file of DiT's layout, with the weights put into it by `wrap`."""

    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.dit_state(bias=bias)
        state = ref.with_qk_norm(state) if qk_norm else state
        torch.save(wrap(state), folder / name, **how)
        return folder / name, ref.sit(state) if sit else ref.dit(state)

    return make


def sit_file(
    name: str = "SiT-T-2.pt", learned: bool = False, towards: str = "noise", path: str = "linear", **more: Any
) -> Make:
    """A file of SiT's layout; `beside` are names of tensors besides, `args` what is noted."""

    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.dit_state(learned)
        state = ref.with_qk_norm(state) if more.get("qk_norm") else state
        beside = {key: torch.randn(4, 4) for key in more.get("beside", ())}
        content = {
            "ema": {**state, **beside},
            "model": zeros({**state, **beside}),
            "args": more.get("args", Namespace()),
        }
        torch.save(content, folder / name)
        return folder / name, ref.sit(state, towards, path)

    return make


def sit_like(change: Callable[[State], State], name: str = "last.pt", **more: Any) -> Make:
    """A file of REPA's kind that was saved in another form; the reference is of the weights before."""

    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.dit_state(more.get("learned", False))
        if more.get("qk_norm"):
            state = ref.with_qk_norm(state)
        saved = change(state)
        torch.save({"ema": saved, "model": zeros(saved), **more.get("content", {})}, folder / name)
        return folder / name, ref.sit(state, "noise")

    return make


def legacy(state: State, first: int = 2) -> State:
    """As REPA saved before it had one list of blocks: those from `first` on are another's."""
    moved = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "blocks" and int(parts[1]) >= first:
            parts[:2] = ["decoder_blocks", str(int(parts[1]) - first)]
        moved[".".join(parts)] = value
    return {**moved, "projectors.0.0.weight": torch.randn(4, 4)}


def wide_norms(state: State) -> State:
    """Norms over all heads at once, where timm's are over each."""
    return {name: value.repeat(ref.HEADS) if "_norm." in name else value for name, value in state.items()}


def self_flow(state: State) -> State:
    """The patch embedding as a linear layer of channels, rows, columns; and the head it was trained beside."""
    patches = state["x_embedder.proj.weight"]
    rows = [
        torch.stack([kernel[c, i, j] for c in range(ref.CHANNELS) for i in (0, 1) for j in (0, 1)])
        for kernel in patches
    ]
    return {**state, "x_embedder.proj.weight": torch.stack(rows), "projector.linear1.weight": torch.randn(4, 4)}


def repa_e(state: State) -> State:
    """With the running statistics of the latents."""
    statistics = {
        "bn.running_mean": torch.linspace(-1, 1, ref.CHANNELS),
        "bn.running_var": torch.linspace(0.2, 9, ref.CHANNELS),
    }
    return {
        **state,
        **statistics,
        "bn.num_batches_tracked": torch.tensor(7),
        "projectors.0.0.weight": torch.randn(4, 4),
    }


def with_tensor(*names: str, shape: tuple[int, ...] = (8, 8), name: str = "SiT-XL-2.pt") -> Make:
    """SiT's layout with tensors that the plain model does not have; the reference is what would be without them."""

    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.dit_state()
        torch.save({**state, **{key: torch.randn(shape) for key in names}}, folder / name)
        return folder / name, ref.sit(state)

    return make


def only(name: str, *names: str) -> Make:
    """A safetensors file with nothing but tensors of these names."""

    def make(folder: Path) -> tuple[Path, None]:
        save_file({key: torch.randn(4, 4) for key in names}, folder / name)
        return folder / name, None

    return make


def changed(change: Callable[[State], State], name: str = "DiT-T-2.safetensors") -> Make:
    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.dit_state()
        after = {key: value.contiguous() for key, value in change(dict(state)).items()}
        if name.endswith("safetensors"):
            save_file(after, folder / name)
        else:
            torch.save(after, folder / name)
        rounded = {key: after[key].float() if key in after else value for key, value in state.items()}
        return folder / name, ref.dit({**rounded, "pos_embed": state["pos_embed"]})  # the table is computed

    return make


def pixart_file(wrap: Callable[[State], Any] = dict, scale: float = 1.0, more: State | None = None) -> Make:
    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.pixart_state(scale=scale)
        torch.save(wrap({**state, **(more or {})}), folder / "PixArt-XL-2.pth")
        return folder / "PixArt-XL-2.pth", ref.pixart(state)

    return make


def sd3_file(
    wrap: Callable[[State], State] = dict,
    qk_norm: bool = False,
    dual: tuple[int, ...] = (),
    name: str = "sd3.safetensors",
) -> Make:
    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.sd3_state(qk_norm, dual)
        save_file(wrap(state), folder / name)
        return folder / name, ref.sd3_of(state, qk_norm, dual)

    return make


def random(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def dit_model() -> nn.Module:
    return random(
        DiTTransformer2DModel(
            num_attention_heads=ref.HEADS,
            attention_head_dim=ref.WIDTH // ref.HEADS,
            in_channels=ref.CHANNELS,
            num_layers=ref.LAYERS,
            sample_size=ref.SIDE,
            patch_size=ref.PATCH,
            num_embeds_ada_norm=ref.CLASSES,
        )
    )


def hooked(model: nn.Module, block: int = 1, **conditions: Tensor) -> Reference:
    """The tap of diffusers' own class, on DiT's schedule."""

    def tap(x0: Tensor, eps: Tensor, tau: float) -> Tensor:
        alpha, sigma = ref.ddpm(tau)
        seen: list[Tensor] = []
        blocks: Any = model.transformer_blocks
        hook = blocks[block].ff.register_forward_hook(lambda _m, _i, out: seen.append(out))
        model(alpha * x0 + sigma * eps, timestep=torch.full((ref.COUNT,), round(1000 * tau)), **conditions)
        hook.remove()
        return seen[0]

    return tap


def folder_of(
    make: Callable[[], nn.Module] = dit_model,
    change: Callable[[Path], object] = Path.exists,
    below: str = "transformer",
    **how: Any,
) -> Make:
    """A folder that diffusers wrote, changed after; the reference is its own class."""

    def build(folder: Path) -> tuple[Path, Reference]:
        model: Any = make()
        for parameter in model.parameters() if how.get("variant") else ():
            parameter.data = parameter.data.half()
        model.save_pretrained(folder / below, **how)
        for parameter in model.parameters():
            parameter.data = parameter.data.float()
        change(folder / below)
        if isinstance(model, SD3Transformer2DModel):
            return folder, ref.sd3(model)
        if isinstance(model, PixArtTransformer2DModel):
            text = ref.prompt()
            added = {"resolution": None, "aspect_ratio": None}
            return folder, hooked(
                model,
                encoder_hidden_states=text["prompt"].expand(ref.COUNT, -1, -1),
                encoder_attention_mask=text["mask"].expand(ref.COUNT, -1),
                added_cond_kwargs=added,  # type: ignore[arg-type]
            )
        return folder, hooked(model, class_labels=torch.full((ref.COUNT,), ref.CLASSES))

    return build


def sd3_model(**more: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: Any = random(SD3Transformer2DModel(**{**ref.SD3, **more}))
        return model

    return make


def pixart_model() -> nn.Module:
    return random(
        PixArtTransformer2DModel(
            num_attention_heads=ref.HEADS,
            attention_head_dim=ref.WIDTH // ref.HEADS,
            in_channels=ref.CHANNELS,
            out_channels=2 * ref.CHANNELS,
            num_layers=ref.LAYERS,
            cross_attention_dim=ref.WIDTH,
            sample_size=ref.SIDE,
            patch_size=ref.PATCH,
            caption_channels=ref.CAPTION,
            use_additional_conditions=False,
        )
    )


WEIGHTS = "diffusion_pytorch_model.safetensors"


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def weights(change: Callable[[State], State]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)

    return apply


def and_wrong_bin(folder: Path) -> None:
    torch.save(zeros(load_file(folder / WEIGHTS)), folder / "diffusion_pytorch_model.bin")


def alone(*names: str) -> Make:
    """A folder with these files, all but empty."""

    def make(folder: Path) -> tuple[Path, None]:
        (folder / "it").mkdir()
        for name in names:
            (folder / "it" / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / "it" / name).write_text("{}")
        return folder / "it", None

    return make


def gguf(folder: Path) -> tuple[Path, None]:
    (folder / "flux1-dev-Q4_0.gguf").write_bytes(b"GGUF" + bytes(64))
    return folder / "flux1-dev-Q4_0.gguf", None


def named_weights(with_config: bool) -> Make:
    """The weights of a diffusers folder, named themselves."""

    def make(folder: Path) -> tuple[Path, Reference | None]:
        _, tap = folder_of()(folder)
        if not with_config:
            (folder / "transformer" / "config.json").unlink()
        return folder / "transformer" / WEIGHTS, tap

    return make


def noted(state: State) -> dict[str, Any]:
    """As training scripts save: weights among objects that are none."""
    return {
        "ema": state,
        "opt": {"state": {0: {"step": torch.tensor(3.0), "lr": np.float64(1e-4)}}},
        "args": Namespace(model="DiT-T/2", results_dir=pathlib.PosixPath("/x"), seed=np.int64(3)),
        "when": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
        "took": datetime.timedelta(hours=3),
        "best": np.float32(2.5),
        "history": np.zeros(3),
        "losses": defaultdict(dict, {"a": {"b": 1.0}}),
    }


def lit_ema(state: State) -> dict[str, Any]:
    average = {f"model_ema.{name.replace('.', '')}": value for name, value in state.items()}
    plain = prefixed(zeros(state), "model.")
    extra = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return {"state_dict": {**plain, **average, **extra}, "global_step": 3}


def ema_pytorch(state: State) -> dict[str, Any]:
    parts = {**prefixed(zeros(state), "online_model."), **prefixed(state, "ema_model.")}
    return {"ema": {**parts, "initted": torch.tensor([True]), "step": torch.tensor([9])}}


def in_one(state: State) -> State:
    """An all-in-one file: the autoencoder and the text encoders beside the model."""
    others = ("first_stage_model.encoder.conv_in.weight", "text_encoders.clip_l.transformer.text_model.x.weight")
    return {**prefixed(state, "model.diffusion_model."), **{name: torch.randn(4, 4) for name in others}}


def fp8_scaled(state: State) -> State:
    name = "blocks.0.mlp.fc1"
    return {
        **state,
        f"{name}.weight": state[f"{name}.weight"].to(torch.float8_e4m3fn),
        f"{name}.scale_weight": torch.tensor(2.0),
    }


def int8(state: State) -> State:
    name = "blocks.0.mlp.fc1"
    return {
        **state,
        f"{name}.weight": (state[f"{name}.weight"] * 100).to(torch.int8),
        f"{name}.SCB": torch.ones(4 * ref.WIDTH),
    }


def lora_in_place(state: State) -> State:
    name = "blocks.0.attn.qkv"
    moved = {key.replace(name, f"{name}.base_layer"): value for key, value in state.items()}
    return {
        **moved,
        f"{name}.lora_A.default.weight": torch.randn(4, ref.WIDTH),
        f"{name}.lora_B.default.weight": torch.randn(3 * ref.WIDTH, 4),
    }


def parameters_alone(state: State) -> dict[str, Any]:
    """An average of what learns: the position table is among the plain weights alone."""
    average = {name: value for name, value in state.items() if name != "pos_embed"}
    return {"model": {**zeros(average), "pos_embed": state["pos_embed"]}, "ema": average}


def average_of(plain: str, average: str) -> Callable[[State], Any]:
    return lambda state: {plain: zeros(state), average: state, "epoch": 3}


def safetensors_named_pt(folder: Path) -> tuple[Path, Reference]:
    state = ref.dit_state()
    save_file(state, folder / "DiT-T-2.pt")
    return folder / "DiT-T-2.pt", ref.dit(state)


def classes(rows: int, noted: int | None) -> Make:
    """A table of so many labels, conditioned on label 2, of as many classes as its notes say."""

    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.dit_state(rows=rows)
        notes = {} if noted is None else {"args": Namespace(num_classes=noted)}
        torch.save({"ema": state, **notes}, folder / "DiT-T-2.pt")
        return folder / "DiT-T-2.pt", ref.dit(state, label=2)

    return make
