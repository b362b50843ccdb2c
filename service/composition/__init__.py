"""The parts of the service made from its settings: caches, inference and API. `service.app` puts them together."""
