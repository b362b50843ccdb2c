"""The training loop: schedule, state on disk, EMA of the weights, log, and several processes."""
