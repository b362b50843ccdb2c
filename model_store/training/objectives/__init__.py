"""What a training step asks of the model, and the loss of its answers."""
