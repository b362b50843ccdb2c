"""The EdgeSAM inference service: embed a picture once, then cut out objects with a click each."""

__version__ = "0.1.0"
