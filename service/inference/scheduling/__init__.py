"""Order, bounds, batching and deadlines of the work of one process. It knows nothing of models."""
