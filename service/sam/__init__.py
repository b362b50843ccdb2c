"""Functions on arrays: images, prompts, masks and embeddings. No clock, no storage, no network, no global state."""
