"""The start of the service: settings, log, port, application, HTTP server."""

import logging
import os
import re
import socket
import sys
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service import __version__
from service.app import create_app
from service.inference.backends.providers import ProviderUnavailable
from service.manifest import ManifestError
from service.process import drop_service_links, raise_file_limit
from service.server.connections import BoundedProtocol, ConnectionBounds
from service.server.draining import DrainingServer
from service.server.listening import ListenError, bind, urls_of
from service.settings import Settings
from service.telemetry.logs import configure_logging, is_text

logger = logging.getLogger("service")

# Load balancers mostly close a connection after 60 s without a request. The side that sends requests should close it,
# because a request that crosses the close fails.
KEEP_ALIVE_S = 75


def run() -> int:
    """Read the settings, bind the port, load the model, serve.

    Returns:
        Exit status. 0 after a stop by SIGTERM or SIGINT. 1 after a forced stop, or if the port cannot be bound or the
        start fails. 2 if the settings or the model cannot be served.
    """
    dropped = drop_service_links(os.environ, Settings.variables())
    settings = _settings()
    if settings is None:
        return 2
    configure_logging(settings.log_level, settings.log_format)
    _warn_of_variables(dropped, settings)
    try:
        sockets = bind(settings.host, settings.port)
    except ListenError as error:
        logger.error("the service does not start: %s", error)
        return 1
    try:
        return _serve(settings, sockets)
    finally:
        for listener in sockets:
            listener.close()


def _serve(settings: Settings, sockets: list[socket.socket]) -> int:
    shows_text = is_text(settings.log_format, sys.stdout)
    if shows_text:
        what = f"the models {', '.join(settings.models)}" if settings.models else f"the model in {settings.model_dir}"
        _print(f"EdgeSAM {__version__} is loading {what}")
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
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the service uses neither the client's address nor its scheme
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.graceful_timeout_s,
    )
    server = DrainingServer(
        config,
        app,
        drain_s=settings.drain_s,
        on_listening=lambda: _announce(app, urls_of(sockets), shows_text=shows_text),
    )
    try:
        server.run(sockets=sockets)
    except ListenError as error:
        logger.error("the service does not start: %s", error)
        return 1
    except SystemExit:  # of uvicorn, with status 3, where the application's start failed
        return 1
    return 0 if server.started and not server.force_exit else 1


def _settings() -> Settings | None:
    """Return the settings; None after an error, which stands on standard error, because there is no log yet."""
    try:
        return Settings()
    except ValidationError as error:
        for item in error.errors():
            name = "EDGESAM_" + "_".join(map(str, item["loc"])).upper() if item["loc"] else "settings"
            print(f"{name}: {item['msg']}", file=sys.stderr)  # noqa: T201
    except SettingsError as error:  # a list that is not JSON; the message holds the field and not its value
        found = re.search(r'field "(\w+)"', str(error))
        name = f"EDGESAM_{found[1]}".upper() if found else "settings"
        print(f'{name}: is not JSON; a list is written ["one", "two"]', file=sys.stderr)  # noqa: T201
    return None


def _warn_of_variables(dropped: Sequence[str], settings: Settings) -> None:
    """Log the variables that look like settings and have no effect."""
    if "EDGESAM_API_KEY" in os.environ and not settings.asks_for_keys:
        logger.warning(
            "EDGESAM_API_KEY is the key that a client sends. This service requires no key; to require keys, set "
            "EDGESAM_API_KEYS or EDGESAM_API_KEYS_FILE"
        )
    for name in dropped:
        logger.warning(
            "%s came from a Kubernetes Service of this name and is ignored; set enableServiceLinks: false, or the "
            "variable itself",
            name,
        )
    for name in Settings.unknown_variables():
        nearest = Settings.nearest_variable(name)
        hint = f"; did you mean {nearest}?" if nearest else "; python -m service --help lists settings"
        logger.warning("%s is no setting and is ignored%s", name, hint)


def _announce(app: FastAPI, urls: Sequence[str], *, shows_text: bool) -> None:
    """Report the addresses of the service: in the log, or as a few lines for people at a terminal."""
    for url in urls:
        logger.info("listening", extra={"url": url, "playground": f"{url}/", "docs": f"{url}/docs"})
    if shows_text:
        default, *others = app.state.models.all
        runtime = default.runtime
        url = re.sub(r"//(0\.0\.0\.0|\[::\]):", "//127.0.0.1:", urls[0])
        trained = "" if default.manifest.trained else ", NOT TRAINED: its masks mean nothing"
        further = f"  Also   {', '.join(model.name for model in others)}\n" if others else ""
        _print(
            f"  Model  {default.name} ({runtime.provider}, {runtime.threads} threads{trained})\n"
            f"{further}"
            f"  Page   {url}/\n"
            f"  API    {url}/docs\n"
            f"  Stop   Ctrl+C"
        )


def _print(text: str) -> None:
    """Write lines for people at a terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
