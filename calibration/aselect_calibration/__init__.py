"""Floor 3, calibration: what INT8 export needs to know about activations. Empty in this version."""
