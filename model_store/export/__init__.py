"""Makes artifacts for the service: ONNX graphs, decoder parameters and `manifest.json`, checked against torch."""
