"""Storage of image embeddings and masks: a memory tier, a Redis tier shared by all replicas, and both as one."""
