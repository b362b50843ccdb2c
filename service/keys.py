"""`python -m service.keys`: make an API key, or check a file of keys, for EDGESAM_API_KEYS_FILE.

The key is printed once and is not stored. The file holds its hash.
"""

import argparse
import json
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from service.api.access.key_file import KeyEntry, KeyFileError, parse_entries, read_key_file
from service.api.access.keys import digest_of, new_key


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after a line with the reason on standard error."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "new":
            _new(asked)
        else:
            _check(asked.file)
    except KeyFileError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command
        return 2
    return 0


def _new(asked: argparse.Namespace) -> None:
    key = new_key()
    limits = {
        budget: {
            bound: value
            for bound in ("per_s", "burst", "at_once")
            if (value := getattr(asked, f"{budget}_{bound}")) is not None
        }
        for budget in ("embed", "segment")
    }
    written = {
        "name": asked.name,
        "sha256": digest_of(key.encode()).hex(),
        "roles": [role.strip() for role in asked.roles.split(",") if role.strip()],
        **({} if asked.namespace is None else {"namespace": asked.namespace}),
        **({"limits": {budget: bounds for budget, bounds in limits.items() if bounds}} if any(limits.values()) else {}),
    }
    try:
        KeyEntry.model_validate(written)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise KeyFileError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if asked.add_to is not None:
        _add(asked.add_to, written)
    print(f"key:   {key}")  # noqa: T201 - a command
    print(f"entry: {json.dumps(written)}")  # noqa: T201 - a command


def _add(path: Path, written: dict[str, object]) -> None:
    """Append an entry to a file. The file is replaced in one step, so that no reader gets half of it.

    The new file keeps owner, group and mode of the old one. A service that runs as another user than the operator can
    then still read it.

    Args:
        path: Path of the file; it is created where it is absent.
        written: Entry of the key.

    Raises:
        KeyFileError: The file cannot be used, is a link, or belongs to a user whose ownership this process cannot set.
            The old file is unchanged.
    """
    try:
        before = path.lstat()
    except FileNotFoundError:
        before = None
    if before is not None and stat.S_ISLNK(before.st_mode):
        # Replacing the link would leave its target unchanged. Following it could lead root to any file.
        raise KeyFileError(f"{path} is a link; name the file itself, {path.resolve()}")
    data = b"[]" if before is None else read_key_file(path, follows_links=False)
    parse_entries(data)
    text = json.dumps([*json.loads(data), written], indent=2) + "\n"
    parse_entries(text.encode())
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # readable by its owner alone
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(text)
            if before is not None and sys.platform != "win32":
                _give(file.fileno(), before, path)
            file.flush()
            os.fsync(file.fileno())  # the key is shown once: a crash must not leave an empty file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _give(descriptor: int, before: os.stat_result, path: Path) -> None:
    """Give an open file owner, group and mode of the old file."""
    try:
        os.fchown(descriptor, before.st_uid, before.st_gid)
    except PermissionError as error:
        raise KeyFileError(
            f"{path} belongs to another user or group, which would lose access; run this as that user, or as root"
        ) from error
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))  # after fchown, which clears the set-id bits


def _check(path: Path) -> None:
    for entry in parse_entries(read_key_file(path)):
        granted = entry.key()
        namespace = granted.caller.namespace or "(that of EDGESAM_API_KEYS)"
        print(f"{entry.name}: {', '.join(sorted(entry.roles))}; namespace {namespace}")  # noqa: T201 - a command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="make a key; prints it once, and its entry for the file")
    new.add_argument("--name", required=True, help="name in the log; unique")
    new.add_argument("--roles", required=True, help="embed, segment, admin; separated by commas")
    new.add_argument("--namespace", help="namespace of images; without it, the key sees its own images alone")
    for budget in ("embed", "segment"):
        new.add_argument(f"--{budget}-per-s", type=float, metavar="RATE", help="requests per second, over all replicas")
        new.add_argument(f"--{budget}-burst", type=int, metavar="N", help="requests at once after a pause")
        new.add_argument(f"--{budget}-at-once", type=int, metavar="N", help="requests in progress in one replica")
    new.add_argument("--add-to", type=Path, metavar="FILE", help="append the entry to this file")
    check = commands.add_parser("check", help="read a file as the service would and list its entries")
    check.add_argument("file", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
