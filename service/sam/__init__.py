"""Arrays in, arrays out: pictures, prompts, masks and embeddings. No clock, no storage, no web, no state."""
