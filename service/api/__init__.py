"""The HTTP API: routes, middleware, access control and adapters."""
