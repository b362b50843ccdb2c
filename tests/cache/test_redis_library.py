"""The undocumented attributes of redis-py that service/cache/redis uses.

A new version of the library that lacks one fails here by name. The upper bound in pyproject.toml prevents the
installation of a version that these tests have not checked.
"""

import inspect
import re
import tomllib
from pathlib import Path

import pytest
import redis
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.maint_notifications import MaintNotificationsConfig

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("owner", "method", "parameters"),
    [
        (Redis, "initialize", []),
        (RedisCluster, "initialize", []),
        (RedisCluster, "get_nodes", []),
        (Redis, "pipeline", ["transaction"]),
        (RedisCluster, "pipeline", ["transaction"]),
        (NodesManager, "aclose", ["attr"]),
        (AbstractConnection, "connect", []),
        (AbstractConnection, "send_command", ["args"]),
        (AbstractConnection, "read_response", ["disable_decoding", "timeout"]),
        (AbstractConnection, "disconnect", ["nowait"]),
        (Sentinel, "discover_master", ["service_name"]),
        (Sentinel, "check_master_state", ["state", "service_name"]),
        (Sentinel, "aclose", []),
        (RedisCluster, "__init__", ["reinitialize_steps", "driver_info", "maint_notifications_config"]),
        (Redis, "__init__", ["driver_info", "maint_notifications_config"]),
        (MaintNotificationsConfig, "__init__", ["enabled"]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_method_that_is_called_takes_the_parameters_it_gets(owner, method, parameters):
    found = inspect.signature(getattr(owner, method)).parameters

    assert set(parameters) <= set(found)


async def test_a_pool_names_the_class_and_the_arguments_of_its_connections():
    pool = BlockingConnectionPool.from_url("redis://127.0.0.1:1/3")

    connection = pool.connection_class(**(pool.connection_kwargs | {"protocol": 2}))

    assert isinstance(connection, AbstractConnection)
    assert pool.connection_kwargs["db"] == 3


async def test_a_node_of_a_cluster_names_the_class_and_the_arguments_of_its_connections():
    node = ClusterNode("127.0.0.1", 1, "primary")

    connection = node.connection_class(**(node.connection_kwargs | {"protocol": 2}))

    assert isinstance(connection, AbstractConnection)


async def test_a_cluster_has_two_groups_of_nodes_that_can_be_closed():
    cluster = RedisCluster(host="127.0.0.1", port=1)

    assert isinstance(cluster.nodes_manager, NodesManager)
    assert cluster.nodes_manager.startup_nodes
    assert inspect.signature(NodesManager.aclose).parameters["attr"].default == "nodes_cache"
    await cluster.nodes_manager.aclose("startup_nodes")


async def test_a_pool_behind_sentinel_asks_its_manager_for_the_master():
    class Elsewhere(Sentinel):
        async def discover_master(self, service_name):
            return f"{service_name}.example", 5

    pool = Elsewhere([("127.0.0.1", 1)]).master_for("images").connection_pool

    assert isinstance(pool, SentinelConnectionPool)
    assert isinstance(pool.sentinel_manager, Elsewhere)
    assert len(pool.sentinel_manager.sentinels) == 1
    assert await pool.get_master_address() == ("images.example", 5)


def test_an_address_is_parsed_to_the_arguments_of_a_connection():
    found = parse_url("rediss://user:pw@localhost?ssl_ca_certs=/ca.crt")

    assert found["username"] == "user"
    assert found["password"] == "pw"
    assert found["ssl_ca_certs"] == "/ca.crt"
    assert found["connection_class"].__name__ == "SSLConnection"


def test_the_installed_version_is_within_the_bounds_of_the_package():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (rule,) = [line for line in dependencies if line.startswith("redis[")]
    least, below = map(int, re.fullmatch(r"redis\[hiredis\]>=(\d+),<(\d+)", rule).groups())

    assert least <= int(redis.__version__.partition(".")[0]) < below
