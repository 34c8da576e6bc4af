"""Change an exported graph's inputs and outputs for other runtimes, and verify that its answers are the same.

External weight files are not changed: the graph keeps its references to them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from aselect_runtime.engines.parity import verification_frames
from aselect_runtime.errors import GateError, InputError
from aselect_runtime.frames import Frame
from aselect_runtime.records import Manifest
from aselect_runtime.sessions.onnx import OnnxSession

AGREEMENT = 0.999
"""Minimum share of pixels or frames with the same class: the arithmetic is the same up to ties."""

BATCH = "batch"
"""The name of a dynamic batch dimension."""


def load(path: Path) -> ModelProto:
    """A graph without its external weights."""
    return onnx.load(str(path), load_external_data=False)


def frames_of(folder: Path, manifest: Manifest) -> Frame:
    """The folder's verification frames; raises InputError if it has none."""
    verification = verification_frames(folder, manifest)
    if verification is None:
        raise InputError(f"{folder}: got no verify.npz, expected it to check the new graph; export it again")
    return verification[0]


def planar_input(model: ModelProto, name: str) -> None:
    """Replace the input `frames` uint8 [N, H, W, 3] by `name`, float32 [N, 3, H, W], in place.

    Requires that the graph begins with a Cast to float32 and a Transpose.
    """
    graph = model.graph
    source = graph.input[0]
    cast = _only_consumer(model, source.name, "Cast")
    transpose = _only_consumer(model, cast.output[0], "Transpose")
    batch, height, width, _ = _shape(source)
    for node in graph.node:
        node.input[:] = [name if value == transpose.output[0] else value for value in node.input]
    for node in (cast, transpose):
        graph.node.remove(node)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, height, width]))


def class_probabilities(model: ModelProto, name: str, classes: int) -> None:
    """Replace the outputs of a segmentation graph by `name`, float32 [N, C, H, W]: softmax of the input of ArgMax."""
    graph = model.graph
    class_map = next(output for output in graph.output if output.name == "class_map")
    batch, height, width = _shape(class_map)
    node = _producer(model, "class_map")
    while node.op_type != "ArgMax":
        if node.op_type != "Cast":
            raise _unexpected(f"{node.op_type} before class_map", "ArgMax and casts")
        node = _producer(model, node.input[0])
    graph.node.append(helper.make_node("Cast", [node.input[0]], [f"{name}.float"], to=TensorProto.FLOAT))
    graph.node.append(helper.make_node("Softmax", [f"{name}.float"], [name], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, classes, height, width]))
    drop_unused(model)


def free_batch(model: ModelProto) -> None:
    """Make the batch of a graph exported for one frame dynamic, in place.

    Requires that a leading 1 in the constants of Reshape and Resize means the batch; verification checks whether that
    holds.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {value.name: _shape(value) for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants:
            shape = numpy_helper.to_array(constants[node.input[1]]).copy()
            if shape.size and shape[0] == 1 and -1 not in shape:
                shape[0] = -1
                node.input[1] = _constant(model, f"{node.output[0]}.shape", shape)
        elif node.op_type == "Resize" and len(node.input) == 4 and node.input[3] in constants:
            sizes = numpy_helper.to_array(constants[node.input[3]])
            scales = (sizes / np.array(shapes[node.input[0]])).astype(np.float32)
            del node.input[3]
            node.input[2] = _constant(model, f"{node.output[0]}.scales", scales)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del graph.value_info[:]  # they say 1


def drop_unused(model: ModelProto) -> None:
    """Remove nodes and weights that no output needs, in place."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    values = [value for value in graph.value_info if value.name in needed]
    del graph.value_info[:]
    graph.value_info.extend(values)


def hold_against(
    original: Path,
    changed: Path,
    manifest: Manifest,
    frames: Frame,
    run: Callable[[OnnxSession, Frame], NDArray[np.int64]],
) -> None:
    """Raise GateError unless the changed graph gives the same classes; `run` computes its classes for all frames."""
    size = manifest.input.shape[0]
    session = OnnxSession(original, "cpu")
    answer = [session.infer(frames[start : start + size]) for start in range(0, len(frames), size)]
    if manifest.task == "seg":
        expected = np.concatenate([outputs["class_map"] for outputs in answer]).astype(np.int64)
    else:
        expected = np.concatenate([outputs["scores"] for outputs in answer]).argmax(1)
    agreement = float((run(OnnxSession(changed, "cpu"), frames) == expected).mean())
    if agreement < AGREEMENT:
        raise GateError(
            f"{changed.name}: got {agreement:.3%} same class as {original.name}, expected {AGREEMENT:.1%}; "
            "export with the format folder",
            parameter="format",
        )


def _shape(value: ValueInfoProto) -> list[int]:
    return [side.dim_value for side in value.type.tensor_type.shape.dim]


def _constant(model: ModelProto, name: str, values: NDArray[np.generic]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def _producer(model: ModelProto, name: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if name in node.output)
    return found


def _only_consumer(model: ModelProto, name: str, kind: str) -> NodeProto:
    consumers: list[NodeProto] = [node for node in model.graph.node if name in node.input]
    if len(consumers) != 1 or consumers[0].op_type != kind:
        raise _unexpected(f"{[node.op_type for node in consumers]} behind {name}", kind)
    return consumers[0]


def _unexpected(got: str, wanted: str) -> InputError:
    return InputError(f"got a graph with {got}, expected {wanted} as aselect-export writes it; export it again")
