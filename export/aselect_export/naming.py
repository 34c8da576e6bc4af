"""Node names with block and component: `block3.attention.qkv.MatMul`, `block3.attention.qkv.weight`.

The exporter numbers its nodes (`node_MatMul_56`, `val_62`) but records the module that each node comes from.
"""

from __future__ import annotations

import ast
import re
from collections import Counter

from onnx_ir import Model, Node, Value
from torch import nn

SCOPES = "pkg.torch.onnx.name_scopes"
"""The metadata in which the exporter records a node's modules, outermost first, and last the operation."""

_LEAVES = {
    "project": "attention.qkv",
    "out": "attention.out",
    "norm1": "attention.norm",
    "norm2": "mlp.norm",
    "query": "attention.query_heads",
    "query.norm": "attention.query_norm",
    "query_norm": "attention.query_norm",
    "key": "attention.key_heads",
    "key.norm": "attention.key_norm",
    "key_norm": "attention.key_norm",
    "mlp_in": "mlp.in",
    "mlp_out": "mlp.out",
    "gelu": "mlp.gelu",
    "activation": "mlp.activation",
    "mlp.widen": "mlp.in",
    "mlp.narrow": "mlp.out",
    "mlp.activation": "mlp.gelu",
    "mlp.convolutions.widen": "mlp.in",
    "mlp.convolutions.depthwise": "mlp.depthwise",
    "mlp.convolutions.narrow": "mlp.out",
}
"""Names of the layers of a folded block, by their purpose."""

_ROLES = {
    ("MatMul", 0): "weight",
    ("MatMul", 1): "weight",
    ("Gemm", 1): "weight",
    ("Gemm", 2): "bias",
    ("Conv", 1): "weight",
    ("Conv", 2): "bias",
    ("Add", 0): "bias",
    ("Add", 1): "bias",
    ("LayerNormalization", 1): "scale",
    ("LayerNormalization", 2): "bias",
    ("Reshape", 1): "shape",
}


def name_parts(model: Model, module: nn.Module) -> None:
    """Rename every node, weight and inner tensor of the model that `module` was exported to.

    Inputs and outputs keep their names. A node is `<component>.<operation>`, and its output has the same name; nodes
    shared by several components begin with `shared`.
    """
    components = {name: _component(name, module) for name, _ in module.named_modules()}
    taken: Counter[str] = Counter()

    def unique(name: str) -> str:
        taken[name] += 1
        return name if taken[name] == 1 else f"{name}_{taken[name]}"

    places: dict[Node, str] = {}
    for node in model.graph:
        places[node] = _place(node, components, places)
    kept = {*model.graph.inputs, *model.graph.outputs}
    weights = dict(model.graph.initializers)
    for weight in weights.values():
        weight.name = f"{weight.name}#"  # temporary, so that no later name collides
    for old, weight in weights.items():
        weight.name = unique(_weight_name(old, weight, components, places))
    for node in model.graph:
        node.name = unique(f"{places[node]}.{node.op_type}")
        for index, value in enumerate(node.outputs):
            if value not in kept:
                value.name = node.name if len(node.outputs) == 1 else f"{node.name}.{index}"


def _component(path: str, root: nn.Module) -> str:
    """The component name of a module: `model.backbone.blocks.3.project` -> `block3.attention.qkv`."""
    owner = path.rpartition(".")[0]
    name = re.sub(r"^model(\.backbone(?=\.))?\.?", "", path)
    block = re.match(r"blocks\.(\d+)(?:\.(.*))?$", name)
    if not block:
        return name or "frames"
    inner = _LEAVES.get(block[2], block[2]) if block[2] else ""
    projections = getattr(root.get_submodule(owner), "projections", None)
    if block[2] == "project" and projections is not None and len(projections) < 3:
        inner = f"attention.{'_'.join(projections)}"
    return f"block{block[1]}.{inner}".rstrip(".")


def _place(node: Node, components: dict[str, str], places: dict[Node, str]) -> str:
    """The component that a node belongs to; `places` has those of the nodes before it."""
    producers = [value.producer() for value in node.inputs if value is not None]
    before = [places[producer] for producer in producers if producer is not None]
    noted = node.metadata_props.get(SCOPES)
    # A node without that metadata was made by the exporter's optimiser.
    owner = components.get(ast.literal_eval(noted)[-2]) if noted else next(iter(before), None)
    if owner in (None, "frames") and any(place.split(".")[0] in ("head", "answer") for place in before):
        return "answer"
    block = re.match(r"block\d+(?=$|\.)", owner or "")
    if block and (owner == block[0] or not noted):
        return f"{block[0]}.{_function(node)}"
    return owner or "frames"


def _function(node: Node) -> str:
    """The purpose of an operation between the layers of a block."""
    if node.op_type == "Softmax":
        return "attention.softmax"
    if node.op_type == "MatMul":
        readers = {use.node.op_type for use in node.outputs[0].uses()}
        return "attention.scores" if "Softmax" in readers else "attention.mix"
    if node.op_type in ("Reshape", "Transpose", "Split", "Slice"):
        return "attention.heads"
    return "residual" if node.op_type == "Add" else "modulation" if node.op_type == "Mul" else "tokens"


def _weight_name(old: str, weight: Value, components: dict[str, str], places: dict[Node, str]) -> str:
    path, _, leaf = old.rpartition(".")
    if path and path in components:
        return f"{components[path]}.{leaf}"
    uses = list(weight.uses())
    if not uses:
        return old
    owners = sorted({places[use.node] for use in uses})
    owner = owners[0] if len(owners) == 1 else "shared"
    return f"{owner}.{_ROLES.get((uses[0].node.op_type, uses[0].idx), 'constant')}"
