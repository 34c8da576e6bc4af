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
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aselect_edge.training.efficientnet import load_efficientnet
from aselect_runtime.errors import InputError
from aselect_runtime.files import inside
from aselect_runtime.frames import Frame, read_image, stretched
from aselect_runtime.media import list_images
from aselect_runtime.options import choice, parse_list
from research.teacher import save_teacher

VERSION = 1
MANIFEST = "manifest.json"
SIDE = 64
"""Side of a Tiny ImageNet image."""
TILES = 32
"""Images along either side of a mosaic."""
BIRD_SIDE = 256
"""Maximum shorter side of a bird image."""
QUALITY = {"camvid": 48, "cub40": 42, "tinyimagenet": 39, "video": 45}
"""AVIF quality by source, 0 to 100."""
CLIP_EVERY = 5

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


def unpack(path: Path, folder: Path, workers: int = 8) -> Path:
    """Write the pack's data to `folder`, replacing it; raises InputError for a truncated, changed or other file."""
    contents = read_pack(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tiny = sorted(name for name in contents if name.startswith("tinyimagenet/mosaic"))
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(partial(_write, folder), contents.items(), chunksize=32))
        mosaics = list(pool.map(_decoded, (contents[name] for name in tiny)))
    if tiny:
        tiles = np.concatenate([_tiles(mosaic) for mosaic in mosaics])
        labels = np.load(folder / "tinyimagenet/labels.npy")
        np.save(folder / "tinyimagenet/images.npy", tiles[: len(labels)])
    return folder


def read_pack(path: Path) -> dict[str, bytes]:
    """Content by name, checked against the manifest; raises InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(MANIFEST))
            contents = {name: archive.read(name) for name in manifest.get("sha256", {})}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: got an incomplete pack ({error}), expected a complete one; make it again with make gpu-pack"
        ) from error
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{path}: got a pack of version {manifest.get('version')}, expected {VERSION}; make it again with make "
            "gpu-pack"
        )
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest["sha256"][name]:
            raise InputError(
                f"{path}: {name} is damaged, expected the packed contents; make it again with make gpu-pack"
            )
    return contents


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


def read_tiny(folder: Path, limit: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, 64, 64, 3), BGR, and classes (N,), of `train.tar` or of an unpacked pack."""
    if (folder / "images.npy").is_file():
        tiles, packed = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
        return tiles[:limit], packed[:limit].astype(np.int64)
    classes = [line.split("\t")[0] for line in (folder / "classes.txt").read_text().splitlines()]
    index = {name: i for i, name in enumerate(classes)}
    images, labels = [], []
    with tarfile.open(folder / "train.tar") as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        for member in members[:: max(1, len(members) // (limit or len(members)))]:
            stream = archive.extractfile(member)
            image = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR) if stream else None
            if image is not None and image.shape == (SIDE, SIDE, 3):
                images.append(image)
                labels.append(index[member.name.split("/")[0]])
    return np.stack(images), np.array(labels)


def clip_frames(path: Path, every: int = CLIP_EVERY) -> list[Frame]:
    """Every `every`-th frame of a clip, at 480 pixels of width."""
    capture = cv2.VideoCapture(str(path))
    frames: list[Frame] = []
    try:
        while True:
            good, frame = capture.read()
            if not good:
                return frames[::every]
            frames.append(stretched(cast("Frame", frame), (270, 480), cv2.INTER_AREA))
    finally:
        capture.release()


def _write(folder: Path, item: tuple[str, bytes]) -> None:
    name, content = item
    path = inside(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".avif"):
        if not name.startswith("tinyimagenet/"):
            cv2.imwrite(str(path.with_suffix(".bmp")), _decoded(content))
        return
    path.write_bytes(content)


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


def _decoded(content: bytes) -> Frame:
    return np.ascontiguousarray(np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[..., ::-1])


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


def _tiles(mosaic: Frame) -> NDArray[np.uint8]:
    return mosaic.reshape(TILES, SIDE, TILES, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)


def _teacher(weights: Path | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.safetensors"
        save_teacher(load_efficientnet(weights), path)
        return path.read_bytes()


if __name__ == "__main__":
    main()
