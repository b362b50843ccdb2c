"""Hiera, the image encoders of SAM 2.1."""
