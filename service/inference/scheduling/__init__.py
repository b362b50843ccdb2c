"""Order, bounds, batching and deadlines of the work of one process. It does not depend on models."""
