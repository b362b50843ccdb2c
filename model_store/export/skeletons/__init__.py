"""Graphs without weights, made at a release: with the arrays of a checkpoint they become the graphs of an artifact."""
