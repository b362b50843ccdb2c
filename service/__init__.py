"""The EdgeSAM inference service: embed an image once, then segment it by prompts."""

__version__ = "0.2.0"
