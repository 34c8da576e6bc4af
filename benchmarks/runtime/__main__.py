"""The runtime's figures, each a part of benchmarks/results/runtime.json.

python -m benchmarks.runtime speed MODEL [VIDEO]        a real model: session, pipeline, first result python -m
benchmarks.runtime efficiency --supervision   pipeline with a sleeping session, compared with other loops python -m
benchmarks.runtime overload --minutes 10      a source twice as fast as the session python -m benchmarks.runtime cpu
--minutes 30           CPU outside inference, first result, memory python -m benchmarks.runtime faults --times 20
an RTSP server killed repeatedly; corrupt inputs python -m benchmarks.runtime streams                    four 540p
streams at once python -m benchmarks.runtime rules                      cost per frame of ten rules over five zones
python -m benchmarks.runtime still MODEL                what --skip-still saves, and its share of equal pixels
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.harness import load, rows, save, stamp
from benchmarks.runtime import cpu, efficiency, faults, overload, rules, speed, still, streams

RESULTS = Path(__file__).parent.parent / "results" / "runtime.json"


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as name:
        figures = _measure(arguments, Path(name))
    record = {
        **stamp(),
        "arguments": {key: _named(value) for key, value in vars(arguments).items() if key not in {"part", "out"}},
        "figures": figures,
    }
    print(rows(f"{arguments.part}: {record['date']}, {record['machine']}", figures))
    save(arguments.out, {**load(arguments.out), arguments.part: record})


def _named(value: object) -> str:
    """An argument for the record; of a path only the name, because the folders are this machine's."""
    return value.name if isinstance(value, Path) else str(value)


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float | str]:
    if arguments.part == "speed":
        video = arguments.video or speed.default_video(folder, arguments.frames)
        return dict(speed.measure(arguments.model, video, arguments.runs, arguments.frames, folder))
    if arguments.part == "efficiency":
        return efficiency.measure(folder, arguments.runs, arguments.frames, arguments.supervision)
    if arguments.part == "overload":
        return overload.measure(arguments.minutes)
    if arguments.part == "cpu":
        return cpu.measure(folder, arguments.minutes, arguments.frames)
    if arguments.part == "faults":
        return faults.measure(folder, arguments.times, arguments.inputs)
    if arguments.part == "rules":
        return rules.measure(arguments.frames)
    if arguments.part == "still":
        return still.measure(arguments.model)
    return streams.measure(folder, arguments.seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("speed")
    part.add_argument("model", type=Path)
    part.add_argument("video", type=Path, nargs="?")
    part.add_argument("--runs", type=int, default=5)
    part.add_argument("--frames", type=int, default=200)
    part = parts.add_parser("efficiency")
    part.add_argument("--runs", type=int, default=3)
    part.add_argument("--frames", type=int, default=300)
    part.add_argument("--supervision", action="store_true", help="also supervision, installed under runs/ by pip")
    part = parts.add_parser("overload")
    part.add_argument("--minutes", type=float, default=10)
    part = parts.add_parser("cpu")
    part.add_argument("--minutes", type=float, default=30)
    part.add_argument("--frames", type=int, default=300)
    part = parts.add_parser("faults")
    part.add_argument("--times", type=int, default=20)
    part.add_argument("--inputs", type=int, default=1000)
    part = parts.add_parser("still")
    part.add_argument("model", type=Path)
    part = parts.add_parser("streams")
    part.add_argument("--seconds", type=float, default=60)
    part = parts.add_parser("rules")
    part.add_argument("--frames", type=int, default=2000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
