"""The rights that the service's Redis user needs, and the name of a right that is missing.

Redis 6.2 or Valkey 7.2 is needed (GETEX). The smallest ACL user that serves the cache, the lock and deletions, on one
line:

    user edgesam on >PASSWORD ~edgesam:* ~lock:* resetchannels &edgesam:forget
        -@all +get +getex +getrange +set +unlink +exists +pexpire +eval +publish +subscribe +ping

Rate limits across replicas need `+time` as well, a database other than 0 `+select`, and `+cluster|slots +command` for a
cluster. HELLO and AUTH need no rule.
"""

import re

from redis.exceptions import ResponseError

_REFUSED_COMMAND = re.compile(r"no permissions to run the '([a-z|-]+)' command")
# Up to Redis 7.0 the refusal of a command in a script does not name the command, only its line in the script.
_REFUSED_LINE = re.compile(r"executing the script can't run this command .*@user_script:(\d+)")
_CALL = re.compile(r"redis\.p?call\('([A-Z]+)'")


def missing_right(error: ResponseError, script: str = "") -> str | None:
    """Return the ACL rule that would allow a refused command, for instance `+get`; None for another refusal.

    Args:
        error: Answer of the server to a command or a script.
        script: Text of the script; "" for a command.
    """
    if found := _REFUSED_COMMAND.search(str(error)):
        return f"+{found[1]}"
    line = _REFUSED_LINE.search(str(error))
    called = _CALL.search("".join(script.split("\n")[int(line[1]) - 1 : int(line[1])])) if line else None
    return None if called is None else f"+{called[1].lower()}"
