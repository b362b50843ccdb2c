"""Makes weights: EdgeSAM's prompt-in-the-loop training, from a teacher or from annotated masks.

Recipe: docs/explanation/model.md, section 7.
"""
