"""The private parts of uvicorn that `service/server` uses, each by name.

pyproject.toml allows one minor version of uvicorn. Before it is raised, these tests have to pass with the new version.
"""

import ast
import asyncio
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from service.server import connections, draining

ROOT = Path(__file__).parent.parent.parent
PROTOCOL_ATTRIBUTES = {
    "connections", "cycle", "flow", "headers", "loop", "pipeline", "scope", "timeout_keep_alive",
    "timeout_keep_alive_task", "transport", "url",
}  # fmt: skip
PROTOCOL_METHODS = {
    "_unset_keepalive_if_required": ["self"],
    "connection_lost": ["self", "exc"],
    "connection_made": ["self", "transport"],
    "data_received": ["self", "data"],
    "on_body": ["self", "body"],
    "on_headers_complete": ["self"],
    "on_message_begin": ["self"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "send_400_response": ["self", "msg"],
    "shutdown": ["self"],
    "timeout_keep_alive_handler": ["self"],
}
CYCLE_ATTRIBUTES = {"response_complete", "response_started"}
SERVER_ATTRIBUTES = {"config", "force_exit", "lifespan", "server_state", "should_exit"}
SERVER_METHODS = {"handle_exit": ["self", "sig", "frame"], "startup": ["self", "sockets"]}


@pytest.fixture
def config():
    """A loaded configuration of an app that sends no answer."""
    loaded = uvicorn.Config(Starlette(), http=httptools_impl.HttpToolsProtocol, lifespan="off", log_config=None)
    loaded.load()
    return loaded


@pytest.fixture
def protocol(config):
    """Return a protocol of uvicorn without a connection, at the start of a request."""
    loop = asyncio.new_event_loop()
    made = httptools_impl.HttpToolsProtocol(config, ServerState(), {}, loop)
    made.on_message_begin()
    yield made
    loop.close()


def used_of_self(module, class_name, base):
    """Return the attributes of `self` and methods of `super()` that a class uses without defining them."""
    tree = ast.parse(Path(module.__file__).read_text())
    (node,) = [one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == class_name]
    used, assigned, inherited = set(), set(), set()
    for one in ast.walk(node):
        if not isinstance(one, ast.Attribute):
            continue
        if isinstance(one.value, ast.Name) and one.value.id == "self":
            (assigned if isinstance(one.ctx, ast.Store) else used).add(one.attr)
        elif isinstance(one.value, ast.Call) and getattr(one.value.func, "id", "") == "super":
            inherited.add(one.attr)
    methods = {one.name for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))}
    overridden = {name for name in methods if hasattr(base, name) and not name.startswith("__")}
    own = methods | {one.target.id for one in node.body if isinstance(one, ast.AnnAssign)}
    theirs = {name for name in (used | assigned) - own if not name.startswith("_") or hasattr(base, name)}
    return theirs | overridden | inherited - {"__init__"}


def parameters(function):
    """Return the names of a function's parameters."""
    return list(inspect.signature(function).parameters)


def test_the_protocol_uses_no_part_of_uvicorn_that_is_not_named_here():
    used = used_of_self(connections, "BoundedProtocol", httptools_impl.HttpToolsProtocol)

    assert used == PROTOCOL_ATTRIBUTES | PROTOCOL_METHODS.keys()


def test_the_server_uses_no_part_of_uvicorn_that_is_not_named_here():
    used = used_of_self(draining, "DrainingServer", uvicorn.Server)

    assert used == SERVER_ATTRIBUTES | SERVER_METHODS.keys()


@pytest.mark.parametrize("name", sorted(PROTOCOL_ATTRIBUTES))
def test_the_protocol_has_the_attribute(protocol, name):
    assert hasattr(protocol, name)


@pytest.mark.parametrize(("name", "expected"), PROTOCOL_METHODS.items())
def test_the_protocol_has_the_method_with_these_parameters(name, expected):
    assert parameters(getattr(httptools_impl.HttpToolsProtocol, name)) == expected


@pytest.mark.parametrize("name", sorted(CYCLE_ATTRIBUTES))
def test_a_request_has_the_attribute(name):
    assert f"self.{name} = " in inspect.getsource(httptools_impl.RequestResponseCycle.__init__)


def test_flow_control_has_the_attribute_write_paused():
    assert "self.write_paused = " in inspect.getsource(FlowControl.__init__)


def test_the_server_has_the_attributes(config):
    server = uvicorn.Server(config)

    assert {name for name in SERVER_ATTRIBUTES - {"lifespan"} if hasattr(server, name)} == SERVER_ATTRIBUTES - {
        "lifespan"
    }
    assert "self.lifespan = " in inspect.getsource(uvicorn.Server._serve)
    assert server.server_state.default_headers == []
    assert config.encoded_headers
    assert not server.started


@pytest.mark.parametrize(("name", "expected"), SERVER_METHODS.items())
def test_the_server_has_the_method_with_these_parameters(name, expected):
    assert parameters(getattr(uvicorn.Server, name)) == expected


def test_the_installed_uvicorn_is_the_one_minor_version_that_is_allowed():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (bound,) = [one for one in dependencies if one.startswith("uvicorn")]
    major, minor = version("uvicorn").split(".")[:2]

    assert bound == f"uvicorn>={major}.{minor},<{major}.{int(minor) + 1}"
