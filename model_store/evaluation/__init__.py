"""Measures models by the protocol of EdgeSAM's evaluation, and compares them with baselines.

Protocol: docs/explanation/model.md, section 8.1.
"""
