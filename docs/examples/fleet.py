"""An exported model over a folder of videos, on all machines of a Ray cluster.

    pip install './runtime[cpu]' 'ray[data]'
    python fleet.py MODEL VIDEOS OUT [--workers N]

MODEL, VIDEOS and OUT are paths that every machine sees. Each video gives OUT/NAME.mp4.jsonl, one line a frame, which
appears when it is complete. Videos that have it are left out, so the same command continues an earlier one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from aselect_runtime import Model

SUFFIXES = {".mp4", ".mkv", ".avi", ".mov"}


class Analyse:
    """A worker: it opens the model once and is called for each of its videos."""

    def __init__(self, model: str, out: str) -> None:
        self.model, self.out = Model(model, device="cpu"), Path(out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row {"video": path}, with the number of frames; writes the video's lines."""
        video = Path(row["video"])
        lines = []
        for result in self.model.stream(video):
            found = {"areas": result.areas} if self.model.manifest.task == "seg" else {"top": result.top}
            place = {"frame": result.captured.index, "position": result.captured.position}
            lines.append(json.dumps({**place, **found}))
        whole = self.out / f"{video.name}.jsonl"
        part = whole.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        part.replace(whole)
        return {**row, "frames": len(lines)}


def missing(videos: Path, out: Path) -> list[dict[str, Any]]:
    """A row for each video whose lines are not there yet."""
    found = sorted(path for path in videos.iterdir() if path.suffix.lower() in SUFFIXES)
    return [{"video": str(path)} for path in found if not (out / f"{path.name}.jsonl").exists()]


def main() -> None:
    """Map the model over the videos, or with --workers 0 in this process, without Ray."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "videos", "out"):
        parser.add_argument(name, type=lambda text: Path(text).absolute())
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = missing(given.videos, given.out)
    model, out = str(given.model), str(given.out)
    if not rows:
        done = []
    elif given.workers == 0:
        work = Analyse(model, out)
        done = [work(row) for row in rows]
    else:
        import ray

        videos = ray.data.from_items(rows, override_num_blocks=len(rows))  # one video a task: it is what is tried again
        analysed = videos.map(
            Analyse,
            fn_constructor_args=(model, out),
            concurrency=given.workers,
            num_cpus=1,
            max_restarts=-1,  # a worker that is killed is started again,
            max_task_retries=-1,  # and its video is tried again
        )
        done = analysed.take_all()
    print(f"{len(done)} videos, {sum(row['frames'] for row in done)} frames")


if __name__ == "__main__":
    main()
