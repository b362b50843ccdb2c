"""Choosing the defaults of everything mode for a model, on photos with annotated objects."""
