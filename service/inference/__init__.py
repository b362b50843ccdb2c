"""The use cases, embedding and segmenting, and what they need: scheduling, backends and caches."""
