"""The training loop: schedule, state on disk, EMA of the weights, train log, and distributed processes."""
