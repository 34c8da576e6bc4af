"""Signed INT8 quantisation in an OpenVINO model, rewritten as unsigned: the same values, in a form that it keeps.

With VNNI, OpenVINO 2026.4 rounds signed INT8 tensors beside a `Concat` to whole numbers instead of multiples of their
scale. Unsigned ones with the zero point 128 have the same levels, and it computes them correctly at the same speed.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

OPERATOR = b"QuantizeLinear"
LEVELS = 256
ZERO_POINT = 128


def quantises(path: Path) -> bool:
    """Whether an ONNX file quantises activations, found without parsing it; one that only stores such weights does not.

    The name of its operator is in the file as it is, and `DequantizeLinear` does not contain it.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(OPERATOR) >= 0


def make_unsigned(openvino: Any, model: Any) -> int:
    """Rewrite every signed quantisation of an `openvino.Model` in place; returns their number.

    OpenVINO reads a pair of QuantizeLinear and DequantizeLinear as FakeQuantize to -128 ... 127, a conversion to int8,
    one back to float32, and a product with the scale.
    """
    signed = [node for node in model.get_ordered_ops() if _is_signed(openvino, node)]
    for node in signed:
        _rewrite(openvino.opset13, node)
    if signed:
        model.validate_nodes_and_infer_types()
    return len(signed)


def _rewrite(operators: Any, node: Any) -> None:
    source, low, high, *_ = node.input_values()
    bounds = [operators.constant(np.float32(bound)) for bound in (0, LEVELS - 1)]
    levels = operators.convert(operators.fake_quantize(source, low, high, *bounds, LEVELS), "u8")
    for narrow in _readers(node):
        for wide in _readers(narrow):
            kind = wide.get_output_element_type(0)
            zero_point = operators.constant(np.array(ZERO_POINT, kind.to_dtype()))
            back = operators.subtract(operators.convert(levels, kind.to_string()), zero_point)
            for reader in wide.output(0).get_target_inputs():
                reader.replace_source_output(back.output(0))


def _is_signed(openvino: Any, node: Any) -> bool:
    """Whether it is a quantisation to int8 that is read as a floating-point number alone."""
    if node.get_type_name() != "FakeQuantize" or node.get_levels() != LEVELS:
        return False
    narrow = _readers(node)
    wide = [reader for each in narrow for reader in _readers(each)]
    return bool(wide) and all(
        each.get_type_name() == "Convert" and each.get_output_element_type(0) in kinds
        for nodes, kinds in ((narrow, [openvino.Type.i8]), (wide, [openvino.Type.f32, openvino.Type.f16]))
        for each in nodes
    )


def _readers(node: Any) -> list[Any]:
    return [target.get_node() for target in node.output(0).get_target_inputs()]
