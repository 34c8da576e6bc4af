"""Hostile input of a device: pipes where files are expected, names with control codes of a terminal."""

from __future__ import annotations

import logging
import os
import traceback
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from aselect_runtime import open_model
from aselect_runtime.engines.parity import verification_frames
from aselect_runtime.errors import AselectError, InputError, IntegrityError, RecordError
from aselect_runtime.files import sha256
from aselect_runtime.frames import read_image
from aselect_runtime.progress import log_on_stderr
from aselect_runtime.records import ClassInfo, Manifest
from aselect_runtime.rules.file import load_rules
from aselect_runtime.sources import open_source

ESCAPE = "\x1b]0;owned\x07\x9b31m"


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.h264", "a"])
def test_a_pipe_as_an_input_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="got a pipe, socket or device, expected a video file"):
        open_source(str(tmp_path / name))


def test_a_pipe_as_a_record_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "manifest.json"
    os.mkfifo(pipe)
    with pytest.raises(RecordError, match="not a regular file"):
        Manifest.load(pipe)
    with pytest.raises(RecordError, match="not a regular file"):
        load_rules(pipe)
    with pytest.raises(InputError, match="not a regular file"):
        read_image(pipe)
    with pytest.raises(RecordError, match="not a regular file"):
        open_model(tmp_path)
    os.mkfifo(tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"expected an export folder or a \.onnx file"):
        open_model(tmp_path / "a.onnx")


def test_a_record_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    os.truncate(tmp_path / "manifest.json", 1 << 40)
    with pytest.raises(RecordError, match=f"{1 << 40} bytes, more than"):
        Manifest.load(tmp_path / "manifest.json")
    (tmp_path / "rules.toml").symlink_to("/dev/zero")
    with pytest.raises(RecordError, match="not a regular file"):
        load_rules(tmp_path / "rules.toml")


def test_names_send_no_control_codes_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"got the class name '\\x1b\]0;owned\\x07\\x9b31m'"):
        ClassInfo(name=ESCAPE, colour=(0, 0, 0))
    with log_on_stderr():
        logging.getLogger("aselect_runtime.test").warning("skipped %s\nerror: forged", ESCAPE)
    assert capsys.readouterr().err == "warning: skipped ?]0;owned??31m error: forged\n"


def test_errors_of_commands_send_no_control_codes_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from aselect_runtime.commands.entry import reporting

    with pytest.raises(SystemExit), reporting(verbose=False):
        raise AselectError(f"{ESCAPE}\nwarning: forged")
    assert capsys.readouterr().err == "error: ?]0;owned??31m warning: forged\n"


@pytest.mark.parametrize("location", ["../secret.bin", "{folder}/secret.bin", "link.bin", "nowhere.bin"])
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_graph_whose_weights_lie_outside_its_folder_is_refused(location: str, device: str, tmp_path: Path) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    folder = tmp_path / "exported"
    folder.mkdir()
    np.zeros(4, np.float32).tofile(tmp_path / "secret.bin")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    weight = onnx.TensorProto(
        name="w", data_type=onnx.TensorProto.FLOAT, dims=[4], data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in (("location", location.format(folder=tmp_path)), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(IntegrityError, match="cannot load it"):
        open_model(folder / "model.onnx", device)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_verification_frames_of_an_unknown_compression_are_refused(
    method: int, seg_model: Path, tmp_path: Path
) -> None:
    manifest = Manifest.load(seg_model / "manifest.json")
    with zipfile.ZipFile(tmp_path / "verify.npz", "w", method) as archive:
        archive.writestr("frames.npy", bytes(1000))
    with pytest.raises(IntegrityError, match=r"'frames\.npy' compressed by method"):
        verification_frames(tmp_path, _listing(manifest, tmp_path / "verify.npz"))


def test_verification_frames_that_unpack_to_gigabytes_are_refused_before_they_are(
    seg_model: Path, tmp_path: Path
) -> None:
    manifest = Manifest.load(seg_model / "manifest.json")
    with (
        zipfile.ZipFile(tmp_path / "verify.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("frames.npy", "w", force_zip64=True) as part,
    ):
        for _ in range(1100):
            part.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(IntegrityError, match="1100 MiB of arrays"):
        verification_frames(tmp_path, _listing(manifest, tmp_path / "verify.npz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def _listing(manifest: Manifest, file: Path) -> Manifest:
    return manifest.model_copy(update={"files": {**manifest.files, file.name: sha256(file)}})


SECRET = "hunter2-" + "z" * 20
SECRETS = [
    *(f"{scheme}://joe:{SECRET}@127.0.0.1:1/x" for scheme in ("rtsp", "rtsps", "http", "https", "rtmp", "srt", "tcp")),
    *(f"rtsp://127.0.0.1:1/x?{name}={SECRET}" for name in ("token", "password", "auth", "key", "sid", "pwd")),
    *(f"rtsp://127.0.0.1:1/user=joe_{name}={SECRET}_channel=1" for name in ("password", "pass", "pw")),
    *(f"rtsps://joe:{SECRET}@127.0.0.1:1/x#{option}" for option in ("verify=0", "nonsense=1", "ca=/none@x.pem")),
    *(f"http://joe:{odd}{SECRET}@127.0.0.1:1/x" for odd in ("@", "#", "?", "/", "%", ":")),
    *(f"rtsp:/joe:{SECRET}@camera/1", f"joe:{SECRET}@camera/1", f"rtsp://joe:{SECRET}@[bad/1", f"ftp://j:{SECRET}@h/"),
    *(
        f"rtsp://joe:{SECRET}@camera:99999/1",
        f"rtspsrc location=rtsp://joe:{SECRET}@h/1 ! decodebin",
    ),
    *(f"rtspsrc location=rtsp://h/1 user-id=joe user-pw={SECRET} ! decodebin",),
]


def test_no_form_of_a_secret_is_printed() -> None:
    """Errors, their causes and tracebacks of each address that does not open."""
    leaked = []
    for uri in SECRETS:
        try:
            with open_source(uri) as source:
                next(iter(source))
        except AselectError as error:
            told = "".join(traceback.format_exception(error))
        else:
            raise AssertionError("nobody listens at port 1")
        # The traceback shows this file's lines, which name no address.
        leaked += [uri] if SECRET in told else []
    print(f"\nforms of secrets: tried {len(SECRETS)}, leaked {len(leaked)}")
    assert not leaked
