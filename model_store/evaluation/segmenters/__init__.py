"""Segmenters: the ways to get masks from a model, through torch, an artifact's graphs or a running service."""
