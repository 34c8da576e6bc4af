"""From a frame to features at DiT-XL/2's shape and 256 pixels: what each encoder makes of the whole.

    python -m benchmarks.encoder [--repeats 3] [--out runs/encoder.json]

Each way is a process of its own on 2 threads, in interleaved rounds; figures are medians over the rounds. Weights are
random, which decides no time. `python -m benchmarks.encoder_drop` measures what a stem costs in accuracy.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import process
from benchmarks.graph_variants import THREADS, in_onnxruntime, timed
from benchmarks.harness import in_turns, rows, save, stamp

WHOLE = "whole diffusers pipeline with a hook, torch"
WAYS = ("AutoencoderKL", "AutoencoderTiny", "distilled stem")
SIDE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/encoder.json"))
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way is not None:
        print(json.dumps(one(arguments.way, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), arguments.repeats)
    record = {**stamp(f"{THREADS} threads"), "arguments": {"repeats": arguments.repeats}, "figures": figures}
    print(rows(f"{record['date']}, {record['machine']}", figures))
    save(arguments.out, record)
    print(arguments.out)


def measure(folder: Path, repeats: int) -> dict[str, float]:
    """Medians, ratios, and what each encoder costs by count."""
    in_process("make", folder)
    costs = {way: in_process(f"export {way}", folder) for way in WAYS}
    taken = in_turns(
        {way: lambda way=way: float(in_process(way, folder)["ms"]) for way in (WHOLE, *WAYS)},  # type: ignore[misc]
        repeats,
    )
    figures = {f"{way} [ms]": milliseconds for way, milliseconds in taken.items()}
    for way in WAYS:
        figures[f"{way} / whole pipeline"] = taken[way] / taken[WHOLE]
        figures[f"{way}, encoder [M parameters]"] = costs[way]["parameters"] / 1e6
        figures[f"{way}, encoder [G multiply-accumulates]"] = costs[way]["macs"] / 1e9
    return figures


def in_process(way: str, folder: Path) -> dict[str, float]:
    done = process.run([sys.executable, "-m", "benchmarks.encoder", "--way", way, "--folder", folder])
    if done.code:
        sys.exit(f"{way}: {done.errors}")
    found: dict[str, float] = json.loads(done.output.splitlines()[-1])
    return found


def one(way: str, folder: Path) -> dict[str, float]:
    """What one process does: make the models, export a graph, or time a way."""
    if way == "make":
        make(folder)
        return {}
    if way == WHOLE:
        return {"ms": whole_pipeline(folder)}
    if way in WAYS:
        return {"ms": in_onnxruntime(f"{place(way)}/model.onnx")("xl", folder)[0]["latency [ms]"]}
    return export_features(way.removeprefix("export "), folder)


def place(way: str) -> str:
    return way.replace(" ", "-")


def make(folder: Path) -> None:
    """DiT-XL/2 with its AutoencoderKL, and an AutoencoderTiny of diffusers' own shape, with random weights."""
    import torch
    from diffusers import AutoencoderTiny

    from benchmarks import graph_models

    graph_models.make("xl", folder)
    torch.manual_seed(0)
    AutoencoderTiny().save_pretrained(folder / "tiny")


def whole_pipeline(folder: Path) -> float:
    """Milliseconds of diffusers' autoencoder and whole transformer, read by a hook, from a frame on."""
    import torch
    from diffusers import AutoencoderKL

    from benchmarks.graph_models import NOISE, SHAPES, hooked, whole

    torch.set_num_threads(THREADS)
    model, arguments = whole("xl", folder)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    seen = hooked(model, SHAPES["xl"].hooks)
    frame = torch.from_numpy(frames())
    eps = torch.randn(1, *SHAPES["xl"].values, generator=torch.Generator().manual_seed(0))

    def run() -> Any:
        pixels = frame.permute(0, 3, 1, 2).float().flip(1) / 127.5 - 1
        x0 = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        model(NOISE.alpha * x0 + NOISE.sigma * eps, **arguments, return_dict=False)
        return seen()

    with torch.no_grad():
        return timed(run)


def export_features(way: str, folder: Path) -> dict[str, float]:
    """Write the graph from uint8 frames to the tap's features; what its encoder costs."""
    import torch
    from torch import Tensor, nn

    from aselect_edge.backbones import load_backbone
    from aselect_edge.bundle import TapModel
    from aselect_edge.distillation.run import LATENT
    from aselect_edge.fold import Stem, detached_embedding, encoder_cost
    from aselect_edge.heads import build_head
    from aselect_export.graph import trace_module
    from aselect_runtime.records import HeadSpec, StemSpec
    from benchmarks.graph_models import NOISE, SHAPES

    taps = SHAPES["xl"].taps
    vae = str(folder / ("tiny" if way == "AutoencoderTiny" else "vae"))
    backbone = load_backbone(str(folder), vae=vae, depth=1 + max(tap.block for tap in taps), lean=True)
    head = build_head(HeadSpec(kind="linear", channels=1), "seg", [backbone.model.width], 2)
    size = (SIDE, SIDE)
    model = TapModel(backbone.model, head, NOISE, taps, size, 0, backbone.encoder, backbone.condition).deployed()
    encoder = nn.Sequential(model.encoder, detached_embedding(model.backbone))
    if way == "distilled stem":
        spec = StemSpec(stride=16, outputs=backbone.model.width, width=LATENT[0], blocks=LATENT[1])
        encoder = nn.Sequential(Stem(spec).deployed())

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.backbone = encoder, model.backbone

        def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
            features: tuple[Tensor, ...] = self.backbone(self.encoder(frames.float().permute(0, 3, 1, 2)))
            return features

    out = folder / place(way)
    out.mkdir()
    trace_module(Features().eval(), torch.from_numpy(frames()), "frames", ["tap0"], out).write(out / "model.onnx")
    np.save(folder / f"{place(way)}.frames.npy", frames())
    return encoder_cost(encoder, size).model_dump()


def frames() -> Any:
    """The same frame in every process."""
    return np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)


if __name__ == "__main__":
    main()
