"""Removes from a request of Label Studio what the adapter passes over, before the JSON is parsed.

Label Studio sends the task with all earlier annotations, predictions and drafts with every click. Each brush region
there is a list of a hundred thousand numbers. A parser would make an object of each number. Here they are skipped by
searching for the next bracket, which costs a nanosecond for some bytes and no memory.
"""

from typing import Final

from service.api.problems import broken_rule

# Members that the adapter does not use. Their values are skipped where they are lists or objects.
_PASSED_OVER: Final = (b'"annotations"', b'"drafts"', b'"predictions"', b'"rle"')
_TASKS: Final = b'"tasks"'

_QUOTE, _BACKSLASH = b'"\\'
_OPENING: Final = b"[{"
_STRUCTURE: Final = (b'"', b"[", b"]", b"{", b"}")
_SPACE: Final = b" \t\r\n"

# A step takes about a microsecond. So many take less time than decoding a large image, which the same permit allows.
# They are enough for the tasks of a project with ten thousand images.
_MAX_STEPS: Final = 500_000
_STEPS_OF_NAME: Final = 4


def without_passed_over(body: bytes, max_tasks: int) -> bytes:
    """Return a JSON body without earlier annotations, predictions, drafts and run lengths. Blocking.

    A body that is not JSON may be returned with other parts removed. The parser refuses it in any case.

    Args:
        body: Body of a request.
        max_tasks: Number of tasks that are kept. Later ones are removed.

    Raises:
        InvalidRequest: The body has more brackets and strings than a project needs.
    """
    return _without_members(_without_later_tasks(body, max_tasks))


def _without_later_tasks(body: bytes, max_tasks: int) -> bytes:
    key = body.find(_TASKS)
    start = _value_start(body, key, _TASKS) if key >= 0 else -1
    if start < 0 or body[start : start + 1] != b"[":
        return body
    scanner = _Scanner(body)
    position = start + 1
    for _ in range(max_tasks):
        element = _skip_space(body, position)
        if body[element : element + 1] != b"{":
            return body
        position = _skip_space(body, scanner.end_of_value(element))
        if body[position : position + 1] != b",":
            return body
        position += 1
    # `position` is behind the comma after the last task that is kept.
    return body[: position - 1] + body[scanner.end_of_list(position) - 1 :]


def _without_members(body: bytes) -> bytes:
    scanner, names = _Scanner(body), _NextName(body)
    pieces, kept_from, position = [], 0, 0
    while (found := names.at_or_behind(position)) is not None:
        key, name = found
        start = _value_start(body, key, name)
        position = key + len(name)
        scanner.count(_STEPS_OF_NAME)
        if start < 0 or body[start] not in _OPENING:
            continue
        pieces += [body[kept_from:start], b"null"]
        position = kept_from = scanner.end_of_value(start)
    if not pieces:
        return body
    pieces.append(body[kept_from:])
    return b"".join(pieces)


def _value_start(body: bytes, key: int, name: bytes) -> int:
    """Return the position of the value that follows a name; -1 where the name is no name of a member.

    Inside of a string a quote has a backslash before it, so text that looks like a member is not taken for one.
    """
    colon = _skip_space(body, key + len(name))
    if body[key - 1 : key] == b"\\" or body[colon : colon + 1] != b":":
        return -1
    start = _skip_space(body, colon + 1)
    return start if start < len(body) else -1


def _skip_space(body: bytes, position: int) -> int:
    """Return the position of the next character that is no white space, at most some hundred behind `position`."""
    piece = body[position : position + 256]
    return position + len(piece) - len(piece.lstrip(_SPACE))


class _NextName:
    """Finds the names of members that are passed over, in their order. Each byte is searched once for each name."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._next = {name: body.find(name) for name in _PASSED_OVER}

    def at_or_behind(self, position: int) -> tuple[int, bytes] | None:
        """Return the position of the next name and the name; None if there is none."""
        best = None
        for name, at in self._next.items():
            if 0 <= at < position:
                at = self._next[name] = self._body.find(name, position)  # noqa: PLW2901
            if at >= 0 and (best is None or at < best[0]):
                best = at, name
        return best


class _Scanner:
    """Finds the ends of values. Positions only grow, so each byte is searched once for each kind of character.

    Args:
        body: JSON.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._next = [-1] * len(_STRUCTURE)
        self._steps = 0

    def count(self, steps: int = 1) -> None:
        """Count steps.

        Raises:
            InvalidRequest: These were too many.
        """
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise broken_rule("/", f"more than {_MAX_STEPS} lists, objects and strings. Send fewer tasks at a time.")

    def end_of_value(self, start: int) -> int:
        """Return the position behind the list or object that begins at `start`; that of the end if it is cut off."""
        return self._close(start + 1)

    def end_of_list(self, position: int) -> int:
        """Return the position behind the list or object that `position` is in."""
        return self._close(position)

    def _close(self, position: int) -> int:
        depth = 1
        while depth:
            self.count()
            at = self._next_structure(position)
            if at >= len(self._body):
                return at
            character = self._body[at]
            if character == _QUOTE:
                position = self._end_of_string(at)
                continue
            depth += 1 if character in _OPENING else -1
            position = at + 1
        return position

    def _next_structure(self, position: int) -> int:
        """Return the position of the next quote or bracket; that of the end if there is none."""
        for index, character in enumerate(_STRUCTURE):
            if self._next[index] < position:
                at = self._body.find(character, position)
                self._next[index] = at if at >= 0 else len(self._body)
        return min(self._next)

    def _end_of_string(self, start: int) -> int:
        position = start + 1
        while True:
            end = self._body.find(b'"', position)
            if end < 0:
                return len(self._body)
            before = end - 1
            while self._body[before] == _BACKSLASH:  # `start` is a quote, so this ends
                self.count()
                before -= 1
            position = end + 1
            if (end - before) % 2:  # an even number of backslashes: the quote is not escaped
                return position
            self.count()
