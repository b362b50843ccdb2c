"""Order, bounds and deadlines of the work of one process."""
