"""`python -m service`: run the service until SIGTERM or SIGINT."""

import logging
import os
import re
import signal
import sys
from collections.abc import MutableMapping

import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError

if __name__ == "__main__":
    # Until the server listens to it. A container's first process is sent no signal that it has no handler for, and
    # would go on to load its model and serve.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

# Set before ONNX Runtime, NumPy and the Prometheus client are imported. NumPy's own threads would compete with the
# lanes for the same cores; a second series `…_created` beside every counter is nobody's metric.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "1")

import cv2

try:
    import onnxruntime  # noqa: F401 - three packages provide it, and none is a plain dependency
except ModuleNotFoundError:
    print("onnxruntime is missing: pip install '.[cpu]', or one of the extras openvino and gpu", file=sys.stderr)  # noqa: T201
    sys.exit(2)

from service.allocator import share_one_arena
from service.app import create_app
from service.inference.backends.providers import ProviderUnavailable
from service.manifest import ManifestError
from service.server.connections import BoundedProtocol, ConnectionBounds, raise_file_limit
from service.server.draining import DrainingServer
from service.settings import Settings
from service.telemetry.logs import configure_logging

logger = logging.getLogger("service")

# Longer than load balancers keep a connection that nobody uses, 60 s mostly: of two sides that may close it, the one
# that sends requests should, or a request crosses the end and fails.
KEEP_ALIVE_S = 75

# What Kubernetes derives from the name of a Service: NAME_PORT, and companions that look like no setting.
_LINK_PORT = re.compile(r"EDGESAM_(\w+_)?PORT")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")
_LINK_COMPANION = re.compile(
    r"EDGESAM_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def main() -> int:
    """Read the settings, load the model, listen.

    Returns:
        The exit status: 0 after a stop by SIGTERM or SIGINT, 1 after a forced one or a start that failed, 2 when the
        settings cannot be served.
    """
    share_one_arena()
    dropped = drop_service_links(os.environ)
    try:
        settings = Settings()
    except ValidationError as error:
        for item in error.errors():
            name = "EDGESAM_" + "_".join(map(str, item["loc"])).upper() if item["loc"] else "settings"
            print(f"{name}: {item['msg']}", file=sys.stderr)  # noqa: T201 - before logging is configured
        return 2
    except SettingsError as error:  # a list that is not JSON; the message names the field and not the text
        found = re.search(r'field "(\w+)"', str(error))
        name = f"EDGESAM_{found[1]}".upper() if found else "settings"
        print(f'{name}: is not JSON; a list is written ["one", "two"]', file=sys.stderr)  # noqa: T201 - as above
        return 2
    configure_logging(settings.log_level)
    for name in dropped:
        logger.warning(
            "%s came from a Kubernetes Service of this name and is ignored; set enableServiceLinks: false, or the "
            "variable itself",
            name,
        )
    for name in Settings.unknown_variables():
        logger.warning("%s is no setting and is ignored", name)
    cv2.setNumThreads(1)  # each of our worker threads has a core already
    try:
        app = create_app(settings)
    except (ManifestError, ProviderUnavailable, ValueError) as error:
        logger.error("the service does not start: %s", error)
        return 2
    bounds = ConnectionBounds(
        max_connections=raise_file_limit(settings.max_connections),
        head_timeout_s=settings.head_timeout_s,
        max_head_bytes=settings.max_head_bytes,
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=BoundedProtocol.within(bounds),
        ws="none",  # none is spoken here, and its parser would have bounds of its own
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks who the client is or how it came; parsing them would cost each click
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.graceful_timeout_s,
    )
    server = DrainingServer(config, app, drain_s=settings.drain_s)
    try:
        server.run()
    except SystemExit:  # uvicorn's, for a port that is taken: its status is 3
        return 1
    return 0 if server.started and not server.force_exit else 1


def drop_service_links(environment: MutableMapping[str, str]) -> list[str]:
    """Remove what Kubernetes puts into every container about the namespace's Services called `edgesam…`.

    For a Service `edgesam` that is EDGESAM_PORT=tcp://10.0.0.1:8000 and a dozen companions, and for a Service
    `edgesam-metrics` EDGESAM_METRICS_PORT: names of settings, with values that are none.

    Returns:
        The removed names that are settings, sorted.
    """
    links = [
        name
        for name, value in environment.items()
        if _LINK_COMPANION.fullmatch(name) or (_LINK_PORT.fullmatch(name) and _LINK_VALUE.match(value))
    ]
    for name in links:
        del environment[name]
    return sorted(name for name in links if name.removeprefix("EDGESAM_").lower() in Settings.model_fields)


if __name__ == "__main__":
    sys.exit(main())
