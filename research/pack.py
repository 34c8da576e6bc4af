"""Everything that a GPU run needs, in one file that is small enough to transfer to a machine without a network.

    python -m research.pack --data DIR --out build/gpu-pack.zip [--limit-mib 28] [--test] [--wheels DIR]

Training and validation images as AVIF, label maps as PNG, Tiny ImageNet as mosaics of 1,024 images, the teacher's
weights in float16, and wheels of Python packages that the other machine lacks. Tiny ImageNet fills the remaining
space. `unpack` writes the layout of the data folder that it came from, with images that decode at once (BMP).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aselect_edge.training.efficientnet import load_efficientnet
from aselect_runtime.errors import InputError
from aselect_runtime.frames import Frame, read_image, stretched
from aselect_runtime.media import list_images
from aselect_runtime.options import choice, parse_list
from research.teacher import save_teacher
from research.tiny import SIDE, clip_frames, read_tiny
from research.unpack import MANIFEST, TILES, VERSION

BIRD_SIDE = 256
"""Maximum shorter side of a bird image."""
QUALITY = {"camvid": 48, "cub40": 42, "tinyimagenet": 39, "video": 45}
"""AVIF quality by source, 0 to 100."""

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds camvid, cub40, tinyimagenet")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-pack.zip"))
    parser.add_argument("--limit-mib", type=float, default=28)
    parser.add_argument("--test", action="store_true", help="include the test splits, to measure on the GPU machine")
    parser.add_argument("--sets", default=",".join(QUALITY), help="data sets to include, such as camvid,cub40")
    parser.add_argument("--quality", type=int, help="AVIF quality of every set, 0 to 100")
    parser.add_argument("--wheels", type=Path, help="wheels of packages that the GPU machine lacks")
    parser.add_argument(
        "--teacher", type=Path, help="weights of efficientnet-lite0; the installed package's if left out"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    limit = int(arguments.limit_mib * 2**20)
    sets = [choice(name, list(QUALITY), "sets") for name in parse_list(arguments.sets)]
    quality = {name: arguments.quality or QUALITY[name] for name in sets}
    size = pack(arguments.data, arguments.out, limit, arguments.test, arguments.wheels, arguments.teacher, quality)
    log.info("%s: %.1f MiB", arguments.out, size / 2**20)


def pack(
    data: Path,
    out: Path,
    limit: int,
    test: bool = False,
    wheels: Path | None = None,
    teacher: Path | None = None,
    quality: Mapping[str, int] = QUALITY,
) -> int:
    """Write the pack of the sources that have a `quality`; returns its size in bytes.

    Raises InputError if the limit is too small.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.part")
    hashes: dict[str, str] = {}
    counted: dict[str, int] = {}
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

            def add(name: str, content: bytes) -> None:
                archive.writestr(zipfile.ZipInfo(name), content)  # no time stamp: the same data give the same file
                hashes[name] = hashlib.sha256(content).hexdigest()
                part = name.split("/", 1)[0]
                counted[part] = counted.get(part, 0) + len(content)

            for name, content in _fixed(data, test, wheels, teacher, quality):
                add(name, content)
            left = limit - sum(counted.values()) - 150 * len(hashes) - 100_000  # headers and manifest
            if left <= 0:
                raise InputError(f"got {limit} bytes for the pack, expected at least {limit - left}; raise --limit-mib")
            if "tinyimagenet" in quality:
                for name, content in _tiny(data / "tinyimagenet", left, quality["tinyimagenet"]):
                    add(name, content)
            archive.writestr(zipfile.ZipInfo(MANIFEST), json.dumps({"version": VERSION, "sha256": hashes}))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(out)
    for part, size in counted.items():
        log.info("%-20s %6.2f MiB", part, size / 2**20)
    return out.stat().st_size


def _fixed(
    data: Path, test: bool, wheels: Path | None, teacher: Path | None, quality: Mapping[str, int]
) -> Iterator[tuple[str, bytes]]:
    """Yield all contents except Tiny ImageNet: (name, content)."""
    jobs: list[tuple[str, Path, str]] = []
    labelled = [name for name in ("camvid", "cub40") if name in quality]
    for split in ("train", "val", *(["test"] if test else [])):
        for path in list_images(data / "camvid" / split / "images") if "camvid" in labelled else ():
            jobs.append((f"camvid/{split}/images/{path.stem}.avif", path, "camvid"))
            label = path.parents[1] / "labels" / f"{path.stem}.png"
            yield f"camvid/{split}/labels/{path.stem}.png", _png(label)
        for path in list_images(data / "cub40" / split) if "cub40" in labelled else ():
            jobs.append((f"cub40/{split}/{path.parent.name}/{path.stem}.avif", path, "cub40"))
    for name in labelled:
        yield f"{name}/classes.json", (data / name / "classes.json").read_bytes()
    with ProcessPoolExecutor() as pool:
        files = [(path, source, quality[source]) for _, path, source in jobs]
        encoded = pool.map(_encoded_file, files, chunksize=16)
        yield from zip((name for name, _, _ in jobs), encoded, strict=True)
        if "video" in quality:
            clips = [frame for path in sorted((data / "video").glob("*.mp4")) for frame in clip_frames(path)]
            for index, content in enumerate(pool.map(partial(encode, quality=quality["video"]), clips)):
                yield f"video/{index:04d}.avif", content
    yield "teacher.safetensors", _teacher(teacher)
    for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
        yield f"wheels/{wheel.name}", wheel.read_bytes()


def _tiny(folder: Path, left: int, quality: int) -> Iterator[tuple[str, bytes]]:
    """Yield mosaics, as many as fit in `left` bytes, with equally many images per class; then the images' classes."""
    images, labels = read_tiny(folder)
    order = np.random.default_rng(0).permutation(len(labels))
    kept = 0
    count = TILES * TILES
    groups = [order[start : start + count] for start in range(0, len(order), count)]
    with ProcessPoolExecutor() as pool:
        for index, content in enumerate(pool.map(partial(_mosaic, quality), (images[group] for group in groups))):
            if left < len(content) + len(labels):
                break
            left -= len(content)
            kept += len(groups[index])
            yield f"tinyimagenet/mosaic-{index:02d}.avif", content
    stream = io.BytesIO()
    np.save(stream, labels[order[:kept]].astype(np.uint8))
    yield "tinyimagenet/labels.npy", stream.getvalue()


def _encoded_file(job: tuple[Path, str, int]) -> bytes:
    path, source, quality = job
    frame = read_image(path)
    shorter = min(frame.shape[:2])
    if source == "cub40" and shorter > BIRD_SIDE:
        scale = BIRD_SIDE / shorter
        size = (round(frame.shape[0] * scale), round(frame.shape[1] * scale))
        frame = stretched(frame, size, cv2.INTER_AREA)
    return encode(frame, quality)


def encode(frame: Frame, quality: int) -> bytes:
    """A BGR frame as AVIF."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame[..., ::-1])).save(
        stream, "AVIF", quality=quality, speed=7, max_threads=1
    )
    return stream.getvalue()


def _png(path: Path) -> bytes:
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if label is None:
        raise InputError(f"{path}: unreadable, expected a label map; replace it")
    return cv2.imencode(".png", label, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _mosaic(quality: int, images: NDArray[np.uint8]) -> bytes:
    filled = np.zeros((TILES * TILES, SIDE, SIDE, 3), np.uint8)
    filled[: len(images)] = images
    grid = filled.reshape(TILES, TILES, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(TILES * SIDE, TILES * SIDE, 3)
    return encode(grid, quality)


def _teacher(weights: Path | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.safetensors"
        save_teacher(load_efficientnet(weights), path)
        return path.read_bytes()


if __name__ == "__main__":
    main()
