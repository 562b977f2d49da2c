"""Trained models as files for other programs: ONNX, StableHLO, and folders of weights."""
