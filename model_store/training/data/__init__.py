"""Photos with masks: read, sampled, and cut into what a training step sees."""
