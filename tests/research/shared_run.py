"""A tiny pretraining, alone or under torchrun: `python -m tests.research.shared_run alone|taught OUT`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from aselect_edge.team import assemble
from research.pretraining import pretrain
from tests.research.test_pretrain import RECIPE, TINY, Colours, tiny_corpus


def main() -> None:
    """Train on batches that two processes cannot halve."""
    teacher = Colours() if sys.argv[1] == "taught" else None
    recipe = replace(RECIPE, samples=40, batch=5, frame_batch=3)
    with assemble() as team:
        pretrain(tiny_corpus(), Path(sys.argv[2]), recipe, teacher, config=TINY, team=team)


if __name__ == "__main__":
    main()
