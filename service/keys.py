"""`edgesam keys` and `python -m service.keys`: make an API key, or check a file of keys, for EDGESAM_API_KEYS_FILE.

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
from typing import Final

from pydantic import ValidationError

from service.api.access.key_file import KeyEntry, KeyFileError, parse_entries, read_key_file
from service.api.access.keys import digest_of, new_key

NEW_DESCRIPTION: Final = "Make a key. It is printed once, with its entry for the file."
CHECK_DESCRIPTION: Final = "Read a file as the service would, and list its entries."


def main(arguments: Sequence[str] | None = None, program: str = "python -m service.keys") -> int:
    """Run one command.

    Args:
        arguments: Words after the program; None for those of the process.
        program: Name of the program in the help.

    Returns:
        Exit status: 0, 1 where a file cannot be written, 2 where the command cannot do what was asked.
    """
    asked = _parser(program).parse_args(arguments)
    try:
        if asked.command == "new":
            _new(asked)
        else:
            _check(asked.file)
    except KeyFileError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 2
    except OSError as error:
        if asked.command != "new" or asked.add_to is None:
            raise
        print(f"error: {asked.add_to}: {error.strerror or error}", file=sys.stderr)  # noqa: T201 - a command
        return 1
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


def add_new_options(new: argparse.ArgumentParser) -> None:
    """Add the options of the command `new`."""
    new.add_argument("--name", required=True, help="Name in the log; unique; required.")
    new.add_argument("--roles", required=True, help="embed, segment, admin; separated by commas; required.")
    new.add_argument("--namespace", help="Namespace of images. Without it the key sees its own images alone.")
    for budget in ("embed", "segment"):
        new.add_argument(
            f"--{budget}-per-s", type=float, metavar="RATE", help="Requests per second, over all replicas."
        )
        new.add_argument(f"--{budget}-burst", type=int, metavar="N", help="Requests at once after a pause.")
        new.add_argument(f"--{budget}-at-once", type=int, metavar="N", help="Requests in progress in one replica.")
    new.add_argument("--add-to", type=Path, metavar="FILE", help="Append the entry to this file.")


def add_check_arguments(check: argparse.ArgumentParser) -> None:
    """Add the argument of the command `check`."""
    check.add_argument("file", type=Path, help="File of keys.")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Make an API key, or check a file of keys, for EDGESAM_API_KEYS_FILE. The key is printed once and "
        "is not stored. The file holds its hash.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_new_options(commands.add_parser("new", help=NEW_DESCRIPTION, description=NEW_DESCRIPTION))
    add_check_arguments(commands.add_parser("check", help=CHECK_DESCRIPTION, description=CHECK_DESCRIPTION))
    return parser


if __name__ == "__main__":
    sys.exit(main())
