"""Training objectives: prompts of a step, decoder passes, and losses of their masks."""
