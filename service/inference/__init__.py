"""When things run: sessions, lanes, single flight, and the two use cases."""
