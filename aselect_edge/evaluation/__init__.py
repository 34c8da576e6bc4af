"""The one way of measuring: torch, ONNX and engines, training and the gate of INT8 compare the same figures."""

from aselect_edge.evaluation.measuring import Answers, Data, measure, score_of
from aselect_edge.evaluation.metrics import Confusion, Figures, TopAccuracy

__all__ = ["Answers", "Confusion", "Data", "Figures", "TopAccuracy", "measure", "score_of"]
