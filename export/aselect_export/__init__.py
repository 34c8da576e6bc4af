"""Floor 4, export: the ONNX graph, its precision, its verification and its evaluation."""
