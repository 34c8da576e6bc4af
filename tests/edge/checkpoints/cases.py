"""The layouts that people hold: what each is made of, and what is right for it, a tap or a refusal."""

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
    wrap: Callable[[State], Any], name: str = "DiT-T-2.pt", sit: bool = False, bias: bool = True, **how: Any
) -> Make:
    """A file of DiT's layout, with the weights put into it by `wrap`."""

    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.dit_state(bias=bias)
        torch.save(wrap(state), folder / name, **how)
        return folder / name, ref.sit(state) if sit else ref.dit(state)

    return make


def sit_file(
    name: str = "SiT-T-2.pt", learned: bool = False, towards: str = "noise", path: str = "linear", **more: Any
) -> Make:
    """A file of SiT's layout; `beside` are names of tensors besides, `args` what is noted."""

    def make(folder: Path) -> tuple[Path, Reference]:
        state = ref.dit_state(learned)
        beside = {key: torch.randn(4, 4) for key in more.get("beside", ())}
        content = {
            "ema": {**state, **beside},
            "model": zeros({**state, **beside}),
            "args": more.get("args", Namespace()),
        }
        torch.save(content, folder / name)
        return folder / name, ref.sit(state, towards, path)

    return make


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
        return model  # type: ignore[no-any-return]

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


PREFIXES = ("module.", "_orig_mod.", "net.", "model.", "model.diffusion_model.", "module._orig_mod.")
SUFFIXES = (".PT", ".pth", ".pt.tar", ".ckpt", ".bin")
AVERAGES = (
    ("model", "ema"),
    ("state_dict", "state_dict_ema"),
    ("model", "model_ema"),
    ("model", "ema_model"),
    ("model", "model_ema1"),
    ("model_state_dict", "ema_state_dict"),
)

RIGHT = [
    Case("dit", torch_file(dict)),
    *(Case(f"average-{average}", torch_file(average_of(plain, average))) for plain, average in AVERAGES),
    Case("two-averages", torch_file(lambda s: {"model": zeros(s), "model_ema1": s, "model_ema2": zeros(s)})),
    Case("average-none", torch_file(lambda s: {"model": s, "ema": None, "ema_decay": 0.99})),
    Case("average-of-parameters", torch_file(parameters_alone)),
    Case("average-lit-ema", torch_file(lit_ema, "DiT.ckpt")),
    Case("average-ema-pytorch", torch_file(ema_pytorch)),
    *(Case(f"prefix-{p}", torch_file(lambda s, p=p: prefixed(s, p))) for p in PREFIXES),  # type: ignore[misc]
    Case(
        "prefix-inside", torch_file(lambda s: {k.replace("blocks.1.", "blocks.1._orig_mod."): v for k, v in s.items()})
    ),
    Case("all-in-one", torch_file(lambda s: {"state_dict": in_one(s)})),
    *(Case(f"suffix-{suffix}", torch_file(lambda s: {"state_dict": s}, f"DiT-T{suffix}")) for suffix in SUFFIXES),
    Case("torch-1.5", torch_file(dict, _use_new_zipfile_serialization=False)),
    Case("notes", torch_file(noted)),
    Case("notes-torch-1.5", torch_file(noted, _use_new_zipfile_serialization=False)),
    Case("safetensors", changed(lambda s: s)),
    Case("safetensors-named-pt", safetensors_named_pt),
    Case("no-bias", torch_file(dict, bias=False)),
    Case("noted-without-null-class", classes(ref.CLASSES, ref.CLASSES), options={"label": 2}),
    Case("noted-with-null-class", classes(1000, 999), options={"label": 2}),
    Case("a-thousand-classes", classes(1000, None), options={"label": 2}),
    Case("float16", changed(lambda s: {k: v.half() for k, v in s.items()})),
    Case("bfloat16", changed(lambda s: {k: v.bfloat16() for k, v in s.items()}, "DiT-T-2.pt")),
    Case("sit-published", torch_file(dict, "SiT-T-2.pt", sit=True)),
    Case("sit-noted", sit_file(towards="data", args=Namespace(path_type="Linear", model="SiT-T/2"))),
    Case("sit-gvp", sit_file(learned=True, towards="data", path="cosine", args=Namespace(path_type="GVP"))),
    Case("sit-vp", sit_file(learned=True, towards="data", path="vp", args=Namespace(path_type="VP"))),
    Case("repa", sit_file(beside=["projectors.0.0.weight", "projectors.0.0.bias"])),
    Case("repa-noted", sit_file("0400000.pt", args=Namespace(path_type="linear", model="SiT-T/2"))),
    Case("repa-nameless", sit_file("last.pt", beside=["projectors.0.0.weight"])),
    Case("repa-cosine", sit_file(path="cosine", args={"path_type": "cosine"})),
    Case("irepa", sit_file(beside=["projectors.0.projection_layer.weight"])),
    Case("sra", sit_file(beside=["ap_head.linear1.weight"])),
    Case("no-learned-sigma", sit_file()),
    Case("time-given", sit_file(towards="data"), options={"sit_time": "1-sigma"}),
    Case("path-given", sit_file(path="vp"), options={"sit_path": "vp"}),
    Case("folder", folder_of()),
    Case("folder-root", folder_of(below=".")),
    Case("folder-root-shards", folder_of(below=".", max_shard_size="60KB")),
    Case("folder-bin", folder_of(safe_serialization=False)),
    Case("folder-fp16", folder_of(variant="fp16")),
    Case("folder-fp16-shards", folder_of(variant="fp16", max_shard_size="60KB")),
    Case("folder-both", folder_of(change=and_wrong_bin)),
    Case("folder-compiled", folder_of(change=weights(lambda s: prefixed(s, "_orig_mod.")))),
    Case("folder-file", named_weights(with_config=True)),
    Case("sd3-folder", folder_of(sd3_model())),
    Case("sd35-folder", folder_of(sd3_model(qk_norm="rms_norm", dual_attention_layers=(0,)))),
    Case("sd3-file", sd3_file()),
    Case("sd3-comfy", sd3_file(in_one)),
    Case("sd35-large-file", sd3_file(qk_norm=True)),
    Case("sd35-medium-file", sd3_file(qk_norm=True, dual=(0,))),
    Case("pixart-folder", folder_of(pixart_model)),
    Case("pixart-file", pixart_file()),
    Case("pixart-average", pixart_file(lambda s: {"state_dict": zeros(s), "state_dict_ema": s})),
    Case("pixart-compressed", pixart_file(scale=2.0)),
]

UNKNOWN = "not understood.*not supported"
REFUSED = [
    Case(
        "qk-norm",
        with_tensor("blocks.2.attn.q_norm.weight", "blocks.2.attn.k_norm.weight"),
        rf"qk-norm.*{UNKNOWN[-13:]}",
    ),
    Case("beyond-the-cut", with_tensor("blocks.2.attn.q_norm.weight"), "qk-norm", {"depth": 2}),
    Case("rope", with_tensor("feat_rope.freqs_cos", "feat_rope.freqs_sin"), "RoPE"),
    Case("rms-norm", with_tensor("blocks.0.norm1.weight", "blocks.0.norm2.weight"), "RMSNorm"),
    Case("swiglu", with_tensor("blocks.0.mlp.w12.weight", "blocks.0.mlp.w3.weight"), "SwiGLU"),
    Case("lightningdit-nameless", with_tensor("blocks.0.mlp.w12.weight", name="ckpt.pt"), "SwiGLU"),
    Case("repa-e", with_tensor("bn.running_mean", "bn.running_var", shape=(4,)), "normalise the latents"),
    Case("ddt", with_tensor("decoder_blocks.0.attn.qkv.weight"), "a decoder of its own"),
    Case("meanflow", with_tensor("r_embedder.mlp.0.weight"), "MeanFlow"),
    Case("reg", with_tensor("cls_token", shape=(1, 1, 32)), "tokens besides"),
    Case("experts", with_tensor("blocks.1.moe.experts.0.fc1.weight"), "mixture of experts"),
    Case("unheard-of", with_tensor("blocks.1.gamma"), UNKNOWN),
    Case("jit", only("JiT.safetensors", "x_embedder.proj1.weight", "blocks.0.adaLN_modulation.1.weight"), "got JiT"),
    Case("trained-positions", changed(lambda s: {**s, "pos_embed": s["pos_embed"] + 0.01}), "trained positions"),
    Case("lora-in-place", changed(lora_in_place), "adapters that are not merged"),
    Case("int8", changed(int8), "SCB.*save it dequantised|int8.*save it dequantised|I8.*save it dequantised"),
    Case("int8-torch", changed(int8, "DiT-T-2.pt"), "save it dequantised"),
    Case("fp8-scaled", changed(fp8_scaled), "save it dequantised"),
    Case("fp8", changed(lambda s: {k: v.to(torch.float8_e4m3fn) for k, v in s.items()}), "save it dequantised"),
    Case("fp8-torch", changed(lambda s: {k: v.to(torch.float8_e5m2) for k, v in s.items()}, "DiT.pt"), "dequantised"),
    Case("nf4", with_tensor("blocks.0.mlp.fc1.weight.absmax"), "save it dequantised"),
    Case("gptq", with_tensor("blocks.0.mlp.fc1.qweight"), "save it dequantised"),
    Case("time-unknown", sit_file(learned=True, beside=["projectors.0.0.weight"]), "which way its time runs"),
    Case("path-unknown", sit_file(args=Namespace(path_type="edm")), "path_type = 'edm'.*give the path"),
    Case("family-unknown", torch_file(dict, "weights.pt"), "give the family"),
    Case("dit-with-projectors", sit_file("DiT-T.pt", beside=["projectors.0.0.weight"]), "give the family"),
    Case("no-class-without-null", classes(ref.CLASSES, ref.CLASSES), "without the class that means none"),
    Case("classes", sit_file(args=Namespace(num_classes=3, path_type="linear")), "notes of 3 classes"),
    Case("latents", sit_file(args=Namespace(latents_scale=[0.13025] * 4, path_type="linear")), "latents scaled by"),
    Case("average-list", torch_file(lambda s: {"model": s, "ema": list(s.values())}), "not tensors by name"),
    Case("average-shadow", torch_file(lambda s: {"model": s, "ema": {"shadow_params": list(s.values())}}), "by name"),
    Case("no-weights", torch_file(lambda _s: {"epoch": 3}), "got no state dict"),
    Case("a-tensor", torch_file(lambda s: s["pos_embed"]), "got a tensor"),
    Case("sd3-lost-norm", folder_of(sd3_model(qk_norm="rms_norm"), config(qk_norm=None)), "qk-norm"),
    Case("folder-fewer-layers", folder_of(change=config(num_layers=2)), "other blocks than config.json"),
    Case("folder-int8", folder_of(change=config(quantization_config={"quant_method": "bitsandbytes"})), "bitsandbytes"),
    Case(
        "folder-in-place-lora",
        folder_of(change=weights(lambda s: {**s, "transformer_blocks.0.attn1.to_q.lora_A.weight": torch.randn(2, 2)})),
        "adapters",
    ),
    Case("file-without-config", named_weights(with_config=False), "without their config.json"),
    Case("pixart-norm", pixart_file(more={"blocks.0.attn.q_norm.weight": torch.ones(8)}), "qk-norm"),
    Case("pixart-kv", pixart_file(more={"blocks.0.attn.sr.weight": torch.ones(8, 1, 2, 2)}), "compressed keys"),
    Case(
        "flux",
        only("flux.safetensors", "double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"),
        "Flux",
    ),
    Case(
        "flux-comfy",
        only(
            "f.safetensors",
            "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
            "model.diffusion_model.single_blocks.0.linear1.weight",
        ),
        "Flux",
    ),
    Case(
        "sdxl",
        only(
            "sdxl.safetensors",
            "model.diffusion_model.input_blocks.0.0.weight",
            "model.diffusion_model.label_emb.0.0.weight",
            "model_ema.decay",
        ),
        "SDXL",
    ),
    Case("sd1", only("v1-5.safetensors", "model.diffusion_model.input_blocks.0.0.weight"), "U-Net"),
    Case(
        "hunyuandit",
        only("h.safetensors", "blocks.0.default_modulation.1.weight", "t_embedder.mlp.0.weight"),
        "Hunyuan",
    ),
    Case("lumina", only("l.safetensors", "layers.0.attention.qkv.weight", "cap_embedder.0.weight"), "Lumina"),
    Case(
        "auraflow",
        only("a.safetensors", "model.double_layers.0.attn.w1q.weight", "model.t_embedder.mlp.0.weight"),
        "Aura",
    ),
    Case("qwen", only("q.safetensors", "transformer_blocks.0.img_mod.1.weight", "txt_in.weight"), "Qwen-Image"),
    Case("z-image", only("z.safetensors", "all_x_embedder.2-1.weight", "cap_embedder.0.weight"), "Z-Image"),
    Case(
        "cogvideox",
        only("c.safetensors", "patch_embed.text_proj.weight", "transformer_blocks.0.norm1.linear.weight"),
        "Cog",
    ),
    Case("wan", only("w.safetensors", "blocks.0.self_attn.q.weight", "time_projection.1.weight"), "Wan"),
    Case(
        "lora-file",
        only("lora.safetensors", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"),
        "LoRA adapter",
    ),
    Case("unknown-file", only("x.safetensors", "alpha.weight", "beta.weight"), "no model that is known .*DiT, SiT"),
    Case("gguf", gguf, "GGUF"),
    Case("peft-folder", alone("adapter_config.json", "adapter_model.safetensors"), "adapter"),
    Case("unet-folder", alone("model_index.json", "unet/config.json"), "U-Net"),
    Case("empty-folder", alone(), "empty folder"),
    Case("folder-of-a-pt", alone("SiT-XL.pt"), "give the path of that file"),
    Case(
        "flux-folder", folder_of(change=config(_class_name="FluxTransformer2DModel")), "FluxTransformer2DModel.*SD3Tran"
    ),
    Case("video-folder", folder_of(change=config(_class_name="WanTransformer3DModel")), "WanTransformer3DModel"),
]
