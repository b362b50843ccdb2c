"""Measures models by the protocol of EdgeSAM's evaluation, and against methods that learned nothing (SPEC 8.1)."""
