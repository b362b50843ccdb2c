"""ASGI middleware; `stack` has its order."""
