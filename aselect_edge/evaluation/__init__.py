"""The shared measurement: torch, ONNX, engines, training and the INT8 accuracy check use the same figures."""

from aselect_edge.evaluation.measuring import Answers, measure, score_of
from aselect_edge.evaluation.metrics import Confusion, Figures, TopAccuracy

__all__ = ["Answers", "Confusion", "Figures", "TopAccuracy", "measure", "score_of"]
