"""Measures models by the protocol of EdgeSAM's evaluation, and against methods that learned nothing.

Protocol: docs/explanation/model.md, section 8.1.
"""
