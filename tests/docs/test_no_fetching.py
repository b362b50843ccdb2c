"""The service fetches nothing: there is no code in it that could. (tests/api/test_adapters.py tries it out.)"""

import ast
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "service"

# What speaks to a server that is named at run time. Redis, named by a setting, has a client of its own.
FETCHING = {
    "aiohttp", "ftplib", "http.client", "httpx", "imaplib", "nntplib", "poplib", "pycurl", "requests", "smtplib",
    "socketserver", "telnetlib", "urllib.request", "urllib3", "websocket", "websockets", "xmlrpc.client",
}  # fmt: skip
# asyncio and socket are needed to serve; these of their names would connect.
CONNECTING = {"create_connection", "open_connection", "open_unix_connection", "connect", "connect_ex", "urlopen"}

# service.cache.redis.tier.connect, to EDGESAM_REDIS_URL, and the connection beside it that listens.
TO_REDIS = {SERVICE / "app.py", SERVICE / "cache" / "redis" / "pubsub.py"}


def modules():
    """Each module of the running service: not the client nor the container's probe, commands that are made to ask."""
    commands = {SERVICE / "client", SERVICE / "probe.py"}
    return [path for path in sorted(SERVICE.rglob("*.py")) if commands.isdisjoint({path, *path.parents})]


def imported(tree):
    """The full names of all that a module imports, wherever it does."""
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

    assert not {name for name in names for one in FETCHING if name == one or name.startswith(f"{one}.")}
    allowed = {"connect"} if path in TO_REDIS else set()
    assert calls & CONNECTING <= allowed
    assert not calls & {"__import__", "import_module", "eval", "exec", "system", "popen"}
