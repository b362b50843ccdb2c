"""Makes weights: EdgeSAM's prompt-in-the-loop training, from a teacher or from annotated masks (SPEC 7)."""
