"""The use cases, embedding and segmenting, and their parts: scheduling, backends and caches."""
