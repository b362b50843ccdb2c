"""The networks as modules that become ONNX graphs: the three that are served, and EdgeSAM's published pair."""
