"""The service contains no code that fetches addresses, but one module that fetches from one server of the settings.

tests/api/test_adapters.py tests a running service, and tests/api/test_label_studio_download.py that module.
"""

import ast
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "service"

# Modules of clients that connect to any server. Redis has a client of its own, with an address from a setting.
FETCHING = {
    "aiohttp", "ftplib", "http.client", "httpx", "imaplib", "nntplib", "poplib", "pycurl", "requests", "smtplib",
    "socketserver", "telnetlib", "urllib.request", "urllib3", "websocket", "websockets", "xmlrpc.client",
}  # fmt: skip
# asyncio and socket are needed to serve. These are their functions that connect.
CONNECTING = {"create_connection", "open_connection", "open_unix_connection", "connect", "connect_ex", "urlopen"}

# service.cache.redis.connect, to EDGESAM_REDIS_URL, and the connection for Pub/Sub.
TO_REDIS = {SERVICE / "composition" / "cache.py", SERVICE / "cache" / "redis" / "pubsub.py"}
# To EDGESAM_LABEL_STUDIO_URL alone.
TO_LABEL_STUDIO = SERVICE / "api" / "adapters" / "label_studio_download.py"


def modules():
    """Return all modules of the service, without the client and the container's probe, which send requests."""
    commands = {SERVICE / "client", SERVICE / "probe.py"}
    return [path for path in sorted(SERVICE.rglob("*.py")) if commands.isdisjoint({path, *path.parents})]


def imported(tree):
    """Yield the full names of all imports of a module, at any place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SERVICE)))
def test_no_module_can_fetch(path):
    tree = ast.parse(path.read_text())
    names = set(imported(tree))
    calls = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }

    fetching = {one for name in names for one in FETCHING if name == one or name.startswith(f"{one}.")}
    assert fetching == ({"http.client"} if path == TO_LABEL_STUDIO else set())
    allowed = {"connect"} if path in {*TO_REDIS, TO_LABEL_STUDIO} else set()
    assert calls & CONNECTING <= allowed
    assert not calls & {"__import__", "import_module", "eval", "exec", "system", "popen"}
