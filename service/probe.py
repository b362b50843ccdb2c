"""`python -m service.probe`: does the service of this container answer? For images, which have no curl.

Asks /livez and not /readyz: a process that drains takes no new work, and still must not be replaced as broken.
"""

import http.client
import os
import sys
from collections.abc import Mapping

TIMEOUT_S = 4.0  # below the image's HEALTHCHECK timeout, so that the reason is still told

_ASKED = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


def main() -> int:
    """Ask once. Exit status 0 when the process lives, else 1 and a line that says why."""
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
    """Where the service of this environment listens; a wildcard address is asked on the loopback interface.

    EDGESAM_PORT=0 takes a port that nobody outside the process knows: such a service cannot be probed.
    """
    host = environment.get("EDGESAM_HOST", "")
    port = environment.get("EDGESAM_PORT", "")
    return _ASKED.get(host, host), int(port) if port.isdigit() else 8000


if __name__ == "__main__":
    sys.exit(main())
