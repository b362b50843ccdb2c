"""Version of the client, which is the version of the service that it belongs to."""

from importlib.metadata import version

__all__ = ["__version__"]

if __package__ == "service.client":
    from service import __version__
else:  # installed as a package of its own, whose version is read from the service when it is built
    __version__ = version("edgesam-client")
