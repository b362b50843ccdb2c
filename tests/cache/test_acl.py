"""The name of a missing right, from the refusals of several versions of Redis."""

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from service.cache.redis.acl import missing_right

SCRIPT = """
local found = redis.call('GET', KEYS[1])
return redis.pcall('PEXPIRE', KEYS[1], 5)
"""
REDIS_7_0 = "The user executing the script can't run this command or subcommand script: 9fac, on @user_script:{}."


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoPermissionError("User edgesam has no permissions to run the 'get' command"), "+get"),
        (NoPermissionError("this user has no permissions to run the 'cluster|slots' command"), "+cluster|slots"),
        (ResponseError("ACL failure in script: User a has no permissions to run the 'get' command script: 4b"), "+get"),
        (ResponseError(REDIS_7_0.format(2)), "+get"),
        (ResponseError(REDIS_7_0.format(3)), "+pexpire"),
        (ResponseError(REDIS_7_0.format(1)), None),
        (ResponseError(REDIS_7_0.format(99)), None),
        (NoPermissionError("No permissions to access a key"), None),
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'."), None),
    ],
    ids=str,
)
def test_a_refusal_names_the_right_that_is_missing(error, expected):
    assert missing_right(error, SCRIPT) == expected
