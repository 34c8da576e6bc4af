"""Q/DQ pairs around the layers that compute in INT8 or FP8.

The form was chosen so that ONNX Runtime uses INT8 kernels on a CPU and TensorRT accepts it:

- Zero points are zero and biases are unchanged: TensorRT supports neither another zero point nor an INT32 bias.
- A linear layer's bias is added as a row [1, 1, N]. ONNX Runtime would fuse MatMul and Add [N] into a Gemm before it
  looks for Q/DQ, and run it in FP32 on dequantised weights; with the row it becomes MatMulIntegerToFloat.
- A convolution becomes QLinearConv only if its output is quantised too (`outputs`). If a ReLU follows, the scale is
  that of the ReLU's output, so that quantising it again for the next convolution changes nothing. TensorRT needs no
  Q after a convolution and fuses more without it.
- ONNX Runtime leaves a product in FP32 if its Q/DQ pair, or the one after a convolution, has two readers. So with
  `outputs` each layer has a pair of its own for what it reads, with scales one rounding step apart (equal pairs would
  be merged), and a convolution's dequantised output that several nodes read passes a Clip at the ends of its range.
- FP8 layers compute in FP16 between Q/DQ: ONNX Runtime has no FP8 products, and fails to fuse FP8 Q/DQ in FP32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from aselect_calibration.graphs import consumers
from aselect_calibration.layers import Layer
from aselect_calibration.ranges import Range
from aselect_calibration.rounding import INT8, Format, scale_of, weight_levels, weight_scales
from aselect_calibration.weights import Graph, WeightFile

LEAST, LARGEST = -128, 127
"""Of the levels of INT8."""
SMALLEST_HALF = float(np.finfo(np.float16).tiny)
"""Below it FP16 loses precision, so a layer with smaller scales computes in FP32."""


class Int8Weights:
    """The 8-bit weights of layers, INT8 or FP8, each computed and stored once for any number of graphs."""

    def __init__(self, graph: Graph, weights: WeightFile, form: Format = INT8) -> None:
        """`graph` holds the FP32 weights, after smoothing."""
        self._graph, self._weights, self.form = graph, weights, form
        self._float = {weight.name: weight for weight in graph.model.graph.initializer}
        self._sources = {node.output[0]: node.input[1] for node in graph.model.graph.node if len(node.input) > 1}
        self._made: dict[tuple[str, bool], tuple[TensorProto, NDArray[Any]]] = {}
        self._taken: Counter[str] = Counter()

    def of(self, layer: Layer, half: bool) -> tuple[TensorProto, NDArray[Any]]:
        """Levels and scales (one per output); the scales are FP16 with `half`."""
        if (layer.node, half) not in self._made:
            weight = self._value(layer)
            dtype = np.float16 if half else np.float32
            scales: NDArray[Any] = weight_scales(weight, layer.axis, self.form).astype(dtype)
            levels = weight_levels(weight, scales, layer.axis, self.form)
            name = f"{layer.weight}.{self.form.name}{'.half' if half else ''}"
            # Layers may share a weight, but have scales, axes and smoothing of their own; and without VNNI
            # ONNX Runtime cannot load a graph in which two layers share a quantised one.
            self._taken[name] += 1
            unique = name if self._taken[name] == 1 else f"{name}_{self._taken[name]}"
            self._made[layer.node, half] = self._weights.put(unique, levels), scales
        return self._made[layer.node, half]

    def fits_half(self, layer: Layer, known: Range) -> bool:
        """Whether the layer's scales are normal FP16 numbers."""
        smallest = float(weight_scales(self._value(layer), layer.axis, self.form).min())
        return min(smallest, float(scale_of(known.input, form=self.form))) >= SMALLEST_HALF

    def _value(self, layer: Layer) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._graph.array(self._float[self._sources[layer.node]])
        return values


def quantised(
    graph: Graph,
    layers: Sequence[Layer],
    ranges: Mapping[str, Range],
    int8: Int8Weights,
    weights: WeightFile,
    *,
    outputs: bool,
) -> Graph:
    """A copy of the graph in which the given layers compute in the format of `int8`.

    `graph` may compute in FP32 or partly in FP16: each scale has the type of the tensor that it scales. `ranges` has an
    entry for every layer's name.
    """
    insertion = _Insertion(graph.copy(), weights, int8.form, outputs)
    chosen = {layer.node: layer for layer in layers}
    for node in list(insertion.graph.model.graph.node):
        if node.output[0] in chosen:
            layer = chosen[node.output[0]]
            insertion.layer(node, layer, ranges[layer.name], int8)
        else:
            insertion.nodes.append(node)
    return insertion.finish()


class _Insertion:
    """One pass over the nodes, in order."""

    def __init__(self, graph: Graph, weights: WeightFile, form: Format, outputs: bool) -> None:
        self.graph, self.weights, self.form, self.outputs = graph, weights, form, outputs
        self.readers = consumers(graph)
        self.stored = {weight.name: weight for weight in graph.model.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(graph.model).graph
        values = (*inferred.input, *inferred.output, *inferred.value_info)
        self.types = {value.name: value.type.tensor_type for value in values}
        self.results = {output.name for output in graph.model.graph.output}
        self.nodes: list[NodeProto] = []
        self.pairs: Counter[str] = Counter()

    def layer(self, node: NodeProto, layer: Layer, known: Range, int8: Int8Weights) -> None:
        half = self.types[node.input[0]].elem_type == TensorProto.FLOAT16
        dtype = np.float16 if half else np.float32
        node.input[0] = self._pair(node.input[0], scale_of(known.input, dtype, self.form))
        node.input[1] = self._weight(layer, *int8.of(layer, half))
        if layer.kind == "MatMul":
            self._widen_bias(node)
        self.nodes.append(node)
        output = node.output[0]
        if known.output is not None and self.outputs and output not in self.results:
            # Consumers of the convolution read the dequantised tensor, which keeps the old name.
            node.output[0] = f"{output}.float"
            scale = scale_of(known.output, dtype, self.form)
            shared = len(self.readers.get(output, [])) > 1
            back = f"{output}.levels" if shared else output
            self._quantise(node.output[0], scale, back)
            if shared:
                self._bound(back, scale, output)

    def finish(self) -> Graph:
        model = self.graph.model.graph
        del model.node[:], model.value_info[:]
        model.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [weight for name, weight in self.stored.items() if name in used]
        del model.initializer[:]
        model.initializer.extend(kept)
        return self.graph

    def _pair(self, name: str, scale: NDArray[Any]) -> str:
        """Quantise and dequantise a tensor that a layer reads; returns the result's name."""
        number = self.pairs[name] + 1
        own = f"{name}_{number}" if number > 1 and self.outputs else name
        back = f"{own}.dequantised"
        if number == 1 or self.outputs:
            for _ in range(1, number):
                scale = np.nextafter(scale, np.inf, dtype=scale.dtype)
            self._quantise(name, scale, back, own)
        self.pairs[name] = number
        return back

    def _quantise(self, name: str, scale: NDArray[Any], back: str, own: str = "") -> None:
        """Q and DQ of the tensor `name`; the result is called `back`, and `own` or `name` begins the other names."""
        own = own or name
        constants = [f"{own}.scale", f"{own}.zero"]
        self.stored[constants[0]] = numpy_helper.from_array(scale, constants[0])
        self.stored[constants[1]] = numpy_helper.from_array(np.zeros((), self.form.dtype), constants[1])
        self._add("QuantizeLinear", [name, *constants], f"{own}.{self.form.name}")
        self._add("DequantizeLinear", [f"{own}.{self.form.name}", *constants], back)

    def _bound(self, name: str, scale: NDArray[Any], output: str) -> None:
        """A Clip to the range of the levels, which changes no value."""
        bounds = {f"{output}.least": scale * LEAST, f"{output}.largest": scale * LARGEST}
        for constant, value in bounds.items():
            self.stored[constant] = numpy_helper.from_array(np.asarray(value, scale.dtype), constant)
        self._add("Clip", [name, *bounds], output)

    def _weight(self, layer: Layer, levels: TensorProto, scales: NDArray[Any]) -> str:
        self.stored[levels.name] = levels
        constants = [f"{levels.name}.scale", f"{levels.name}.zero"]
        self.stored[constants[0]] = self.weights.put(constants[0], scales)
        self.stored[constants[1]] = self.weights.put(constants[1], np.zeros(scales.shape, self.form.dtype))
        back = f"{levels.name}.dequantised"
        self._add("DequantizeLinear", [levels.name, *constants], back, axis=layer.axis)
        return back

    def _widen_bias(self, node: NodeProto) -> None:
        readers = self.readers.get(node.output[0], [])
        rank = len(self.types[node.output[0]].shape.dim)
        if len(readers) != 1 or readers[0].op_type != "Add" or rank < 3:
            return
        for index, name in enumerate(readers[0].input):
            if name in self.stored and len(self.stored[name].dims) == 1:
                row = f"{name}.row{rank}"  # layers of other ranks may share the bias
                values = self.graph.array(self.stored[name])
                self.stored[row] = self.weights.put(row, values.reshape(*[1] * (rank - 1), -1))
                readers[0].input[index] = row

    def _add(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> None:
        node = helper.make_node(operation, inputs, [output], name=f"{output}.{operation}", **attributes)
        self.nodes.append(node)
