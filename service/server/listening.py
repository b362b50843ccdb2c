"""The address and port of the service: binding before the model is loaded, and clear errors."""

import errno
import os
import socket
from collections.abc import Sequence


class ListenError(Exception):
    """The service cannot listen on EDGESAM_HOST and EDGESAM_PORT; the message names the setting to change."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind host and port without listening, so that clients and load balancers are still refused a connection.

    Args:
        host: Name or address; a name that resolves to several addresses is bound on each.
        port: Port number; 0 for any free port.

    Returns:
        Bound sockets, in the order of the resolved addresses.

    Raises:
        ListenError: The name is unknown, or the port is taken or may not be bound.
    """
    bound: list[socket.socket] = []
    unsupported: OSError | None = None
    try:
        for family, kind, protocol, _, address in _resolve(host, port):
            try:
                listener = socket.socket(family, kind, protocol)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                unsupported = error  # a kernel without IPv6, where `localhost` may resolve to ::1 as well
                continue
            bound.append(listener)
            if os.name != "nt":
                # A restarted service may bind while connections of its predecessor wait for their timeout. On Windows
                # the option would let two services share a port, and restarts do not need it.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # `::` would take the port of every IPv4 address as well
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # With port 0, every further address gets the port of the first one.
            chosen = port or (bound[0].getsockname()[1] if len(bound) > 1 else 0)
            listener.bind((address[0], chosen, *address[2:]))
        if unsupported is not None and not bound:
            raise unsupported
    except OSError as error:
        for listener in bound:
            listener.close()
        raise listen_error(error, host, port) from error
    return bound


def check_listening(listeners: Sequence[socket.socket]) -> None:
    """Check that bound sockets listen; uvloop closes a socket that cannot listen and reports nothing.

    Raises:
        OSError: One does not, because another process listens on the port.
    """
    for listener in listeners:
        if listener.fileno() < 0 or not _listens(listener):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _listens(listener: socket.socket) -> bool:
    """Return whether a bound socket listens; True where the system, such as macOS, does not tell."""
    try:
        return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except (AttributeError, OSError):
        return True


def listen_error(error: OSError, host: str, port: int) -> ListenError:
    """Return the error that names the setting which caused `error`.

    Args:
        error: Error of resolving, binding or listening.
        host: Value of EDGESAM_HOST.
        port: Value of EDGESAM_PORT.
    """
    reason = error.strerror or str(error)
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return ListenError(
            f"EDGESAM_HOST={host} is no address of this machine ({reason}). Set EDGESAM_HOST to one, such as 127.0.0.1 "
            "for this machine alone or 0.0.0.0 for all IPv4 addresses."
        )
    if error.errno == errno.EADDRINUSE:
        return ListenError(
            f"EDGESAM_PORT={port} is taken by another process on {host} ({reason}). Stop that process, or set "
            "EDGESAM_PORT to a free port; 0 takes any."
        )
    if error.errno == errno.EACCES:
        return ListenError(
            f"EDGESAM_PORT={port} may not be used by this user ({reason}). Set EDGESAM_PORT to 1024 or higher."
        )
    return ListenError(f"EDGESAM_HOST={host} and EDGESAM_PORT={port} cannot be used: {reason}.")


def urls_of(listeners: Sequence[socket.socket]) -> list[str]:
    """Return the URL of each bound socket."""
    addresses = [listener.getsockname()[:2] for listener in listeners]
    return [f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host, port in addresses]


def _resolve(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))  # type: ignore[arg-type] # Python's stubs also allow for kernels without IPv6
