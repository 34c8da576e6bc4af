"""A graph's weights on disk: a graph in memory holds references, and one tensor at a time is read or written.

Protobuf copies its input several times while writing, so weights are not passed through it: during processing they are
stored next to the graph as ONNX external data, and the finished file is streamed. Writing four blocks of DiT-XL (255
MB) as one file then needs no extra memory; onnx_ir needs 1,035 MB more at its peak, onnx 781 MB.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from aselect_runtime.errors import IntegrityError
from aselect_runtime.files import inside
from aselect_runtime.sessions.onnx import OnnxSession

INLINE = 1024
"""Tensors below this many bytes stay in the graph, because passes read their values."""

SINGLE_FILE = 2**31 - 2**20
"""Maximum size of a graph in one file; protobuf's limit is 2 GiB."""

DATA = ".data"
"""Suffix of the weight file of a large graph, after the graph's own name."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Field numbers of ModelProto.graph, GraphProto.initializer and TensorProto.raw_data in onnx.proto."""


@dataclass(frozen=True)
class Graph:
    """An ONNX graph whose larger weights are references into files of `folder`."""

    model: ModelProto
    folder: Path

    def array(self, weight: TensorProto) -> NDArray[Any]:
        """A weight's values, read from disk if they are stored there."""
        if weight.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(weight)
        if weight.data_type == TensorProto.INT4:
            packed = TensorProto(data_type=weight.data_type, dims=weight.dims, raw_data=bytes(self.stored(weight)))
            return numpy_helper.to_array(packed)
        values = np.frombuffer(self.stored(weight), np.uint8)
        return values.view(helper.tensor_dtype_to_np_dtype(weight.data_type)).reshape(weight.dims)

    def stored(self, weight: TensorProto) -> bytearray:
        """The bytes of a weight that is stored on disk; raises IntegrityError if its file is too short."""
        entry = {item.key: item.value for item in weight.external_data}
        path = inside(self.folder, entry["location"])
        content = bytearray(_packed_bytes(weight))
        with path.open("rb") as stream:
            stream.seek(int(entry.get("offset", 0)))
            count = stream.readinto(content)
        if count != len(content):
            raise IntegrityError(f"{path}: got {count} bytes of {weight.name}, expected {len(content)}; export again")
        return content

    def session(self) -> OnnxSession:
        """An ONNX Runtime session on the CPU that reads the weights from their files."""
        with self.saved() as path:
            return OnnxSession(path, "cpu")

    def check(self) -> Graph:
        """The graph itself; raises onnx.checker.ValidationError unless it is valid ONNX with consistent types."""
        with self.saved() as path:
            onnx.checker.check_model(path, full_check=True)
        return self

    @contextmanager
    def saved(self) -> Iterator[Path]:
        """Context with a file of the graph next to its weights, removed at the end."""
        path = self.folder / f"{id(self.model):x}.onnx"
        try:
            path.write_bytes(self.model.SerializeToString())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def copy(self) -> Graph:
        """The same graph, whose nodes may be changed without changing this one's; the weights stay shared."""
        model = ModelProto()
        model.CopyFrom(self.model)
        return Graph(model, self.folder)

    def write(self, path: Path) -> None:
        """Write the final graph: one file, or beyond SINGLE_FILE with the weights next to it in `<name>.data`."""
        if self.size() <= SINGLE_FILE:
            with path.open("wb") as stream:
                self._stream(stream)
            return
        with self.saved() as scratch:
            model = onnx_ir.load(scratch)
            onnx_ir.save(model, path, external_data=f"{path.name}{DATA}", size_threshold_bytes=INLINE)

    def size(self) -> int:
        """Bytes of the graph with its weights."""
        inline: int = self.model.ByteSize()
        return inline + sum(_bytes(weight) for weight in self.model.graph.initializer)

    def _stream(self, stream: BinaryIO) -> None:
        """Write the serialized model, as protobuf would, with one weight in memory at a time."""
        bare = ModelProto()
        bare.CopyFrom(self.model)
        weights = list(self.model.graph.initializer)
        del bare.graph.initializer[:]
        head = bare.graph.SerializeToString()
        bare.ClearField("graph")
        stream.write(bare.SerializeToString())
        headers = [_header(weight) for weight in weights]
        lengths = [len(header) + _bytes(weight) for header, weight in zip(headers, weights, strict=True)]
        total = len(head) + sum(len(_opening(_INITIALIZER, length)) + length for length in lengths)
        stream.write(_opening(_GRAPH, total) + head)
        for weight, header, length in zip(weights, headers, lengths, strict=True):
            stream.write(_opening(_INITIALIZER, length) + header)
            if weight.data_location == TensorProto.EXTERNAL:
                stream.write(self.stored(weight))


class WeightFile:
    """A file of `folder` to which weights are appended."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def put(self, name: str, values: NDArray[Any]) -> TensorProto:
        """Store an array; returns the tensor that refers to it in a graph."""
        if values.nbytes < INLINE:
            return numpy_helper.from_array(values, name)
        weight = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
        if weight.data_type == TensorProto.INT4:  # two values in a byte
            values = np.frombuffer(numpy_helper.from_array(values).raw_data, np.uint8)
        with (self.folder / self.name).open("ab") as stream:
            offset = stream.seek(0, io.SEEK_END)
            values.tofile(stream)
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.name), ("offset", offset), ("length", values.nbytes)):
            weight.external_data.add(key=key, value=str(value))
        return weight


def store(model: onnx_ir.Model, folder: Path, name: str) -> Graph:
    """Write a model's larger weights to the file `name` of `folder`, one after the other; the model frees them."""
    path = folder / f"{name}.onnx"
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            # Transposed views are made contiguous here, one at a time: writing them value by value takes minutes.
            value.const_value = _in_order(value.const_value)
    onnx_ir.save(model, path, external_data=name, size_threshold_bytes=INLINE)
    graph = Graph(onnx.load(path, load_external_data=False), folder)
    path.unlink()
    for value in model.graph.initializers.values():
        value.const_value = None  # onnxscript's rewrite rules keep a reference to the last graph
    return graph


def _in_order(tensor: onnx_ir.TensorProtocol) -> onnx_ir.LazyTensor:
    def values() -> onnx_ir.TensorProtocol:
        return onnx_ir.tensor(np.ascontiguousarray(tensor.numpy()), name=tensor.name)

    return onnx_ir.LazyTensor(values, dtype=tensor.dtype, shape=onnx_ir.Shape(tensor.shape.numpy()), name=tensor.name)


def _packed_bytes(weight: TensorProto) -> int:
    """Bytes of a weight's values as ONNX stores them: two INT4 values in a byte, other types in whole bytes."""
    count = int(np.prod(weight.dims, dtype=np.int64))
    if weight.data_type == TensorProto.INT4:
        return -(-count // 2)
    return count * helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize


def _bytes(weight: TensorProto) -> int:
    """Bytes of a weight that are stored outside the graph."""
    return sum(int(item.value) for item in weight.external_data if item.key == "length")


def _header(weight: TensorProto) -> bytes:
    """A serialized weight up to its raw data, which follows if it is on disk."""
    if weight.data_location != TensorProto.EXTERNAL:
        return bytes(weight.SerializeToString())
    bare = TensorProto(name=weight.name, dims=weight.dims, data_type=weight.data_type)
    return bytes(bare.SerializeToString()) + _opening(_RAW_DATA, _bytes(weight))


def _opening(field: int, length: int) -> bytes:
    """Protobuf's key and length of a variable-length field: https://protobuf.dev/programming-guides/encoding/."""
    return bytes(_varint(field << 3 | 2)) + bytes(_varint(length))


def _varint(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
