"""Encoder and prompt decoder on ONNX Runtime or the native library."""
