"""aselect-eval: parse, one call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aselect_edge.commands.threads import Threads, use_threads
from aselect_runtime.commands.entry import entry
from aselect_runtime.commands.options import Json, Verbose
from aselect_runtime.options import Device
from aselect_runtime.progress import terminal_progress

if TYPE_CHECKING:
    from aselect_export.evaluation import Evaluation


def _evaluate(
    *,
    model: Annotated[Path, typer.Argument(help="A bundle, an export folder, a .onnx file or a folder's .engine.")],
    data: Annotated[Path, typer.Option(help="A labelled folder, in one of the layouts of docs/data.md.")],
    split: Annotated[str, typer.Option(help="Its split to measure on.")] = "test",
    device: Annotated[Device, typer.Option(help="Device to run on; a bundle runs in torch.")] = "auto",
    report: Annotated[Path | None, typer.Option(help="Write an .html page of the figures.")] = None,
    threads: Threads = None,
    as_json: Json = False,
    verbose: Verbose = False,  # noqa: ARG001 - read by `entry`
) -> None:
    """Measure mIoU (segmentation) or top-1 accuracy (classification) on a labelled split, and every class.

    Several processes share the images: torchrun --nproc-per-node N -m aselect_export.commands.evaluate MODEL ...
    """
    from aselect_edge.team import leads
    from aselect_export.evaluation import evaluate

    use_threads(threads)
    with terminal_progress(shown=leads()) as progress:
        found = evaluate(model, data, split, device, progress, report=report)
    if not leads():
        return
    if as_json:
        print(found.to_json())
    else:
        _print_evaluation(found)


def _print_evaluation(found: Evaluation) -> None:
    classes = {f"  {name}": value for name, value in found.per_class.items()}
    means: dict[str, float | None] = {**found.others, found.metric: found.score}
    width = max(map(len, classes | means))
    print("IoU of each class:" if found.task == "seg" else "recall of each class:")
    for name, value in (classes | means).items():
        print(f"{name:<{width}}  {'absent' if value is None else f'{value:.4f}'}")
    print(f"{found.images} images of {found.split}, on {found.device}")


evaluate = entry(_evaluate, examples=["aselect-eval EXPORTED --data DATA --split val --report report.html"])

if __name__ == "__main__":
    evaluate()
