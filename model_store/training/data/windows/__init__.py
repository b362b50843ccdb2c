"""Training windows: parts of the served frame with prompts and targets, cut from photos and drawn scenes."""
