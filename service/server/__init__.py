"""The HTTP server around the application: connection bounds and draining."""
