"""Binding the port before the model is loaded, and errors that name the setting."""

import os
import socket
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.applications import Starlette

from service.server.draining import DrainingServer
from service.server.listening import ListenError, bind, urls_of

HOST = "127.0.0.1"


def port_of(listener):
    """Return the port of a bound socket."""
    return listener.getsockname()[1]


def close(listeners):
    """Close the sockets, which releases their ports."""
    for listener in listeners:
        listener.close()


def test_a_bound_port_refuses_connections_until_the_server_listens():
    (listener,) = bound = bind(HOST, 0)
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port_of(listener)), timeout=10)
        listener.listen()
        socket.create_connection((HOST, port_of(listener)), timeout=10).close()
    finally:
        close(bound)


def test_a_port_on_which_another_process_listens_is_refused_by_name():
    with socket.create_server((HOST, 0)) as taken, pytest.raises(ListenError) as refused:
        bind(HOST, port_of(taken))

    assert "EDGESAM_PORT=" in str(refused.value)
    assert "Address already in use" in str(refused.value)


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_of_this_machine_is_refused_by_name(host):
    with pytest.raises(ListenError, match=f"EDGESAM_HOST={host} is no address of this machine"):
        bind(host, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind every port")
def test_a_port_that_needs_root_is_refused_by_name():
    with pytest.raises(ListenError, match="EDGESAM_PORT=81 may not be used by this user"):
        bind(HOST, 81)


def test_a_name_with_several_addresses_is_bound_on_each_with_the_same_port():
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)

    bound = bind("localhost", 0)

    try:
        assert len(bound) == len(set(found))
        assert len({port_of(listener) for listener in bound}) == 1
    finally:
        close(bound)


def test_urls_have_brackets_around_addresses_of_ipv6():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        bound = bind("::1", 0)
    except ListenError:
        pytest.skip("this machine has no IPv6")
    try:
        assert urls_of(bound) == [f"http://[::1]:{port_of(bound[0])}"]
    finally:
        close(bound)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_second_process_to_listen_on_a_bound_port_gets_an_error_with_the_setting(loop):
    (first,) = bind(HOST, 0)
    second = bind(HOST, port_of(first))
    first.listen()
    app = Starlette()
    app.state = SimpleNamespace(readiness=SimpleNamespace(is_draining=False))
    config = uvicorn.Config(app, host=HOST, port=port_of(first), log_config=None, loop=loop)
    server = DrainingServer(config, app, drain_s=0, on_listening=lambda: None)
    try:
        with pytest.raises(ListenError, match=f"EDGESAM_PORT={port_of(first)} is taken"):
            server.run(sockets=second)
    finally:
        close([first, *second])
