"""`python -m service.probe`: check that the service of this container answers. For images, which have no curl.

It asks /livez and not /readyz: a process that drains takes no new requests, but must not be restarted as broken.
"""

import http.client
import os
import sys
from collections.abc import Mapping

TIMEOUT_S = 4.0  # below the timeout of the image's HEALTHCHECK, so that the reason is printed

_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


def main() -> int:
    """Ask once; return exit status 0 for an answer of 200, else 1 after a line with the reason."""
    host, port = address(os.environ)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"http://{host}:{port}/livez: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 1
    finally:
        connection.close()
    print(f"http://{host}:{port}/livez: {status}")  # noqa: T201 - as above
    return 0 if status == http.client.OK else 1


def address(environment: Mapping[str, str]) -> tuple[str, int]:
    """Return host and port of the service with this environment; the loopback address for a wildcard address.

    With EDGESAM_PORT=0 the port is not known outside the process. Such a service cannot be probed.

    Args:
        environment: Environment variables of the container.
    """
    host = environment.get("EDGESAM_HOST", "")
    port = environment.get("EDGESAM_PORT", "")
    return _LOOPBACK.get(host, host), int(port) if port.isdigit() else 8000


if __name__ == "__main__":
    sys.exit(main())
