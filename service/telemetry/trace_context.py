"""Whose trace a request belongs to: the header `traceparent` of W3C Trace Context, read strictly. A leaf."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace, parent span, flags, all lower-case hex.
# A later version may add fields behind a dash; version 00 has none, and ff is forbidden.
_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-[ -~]*)?"
)
_SAMPLED = 0x01
_MAX_CHARACTERS = 512  # version 00 has 55


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The caller's place in its trace.

    Args:
        trace_id: 32 lower-case hex digits, not all 0.
        span_id: the caller's span, 16 of them.
        is_sampled: whether the caller records its part.
    """

    trace_id: str
    span_id: str
    is_sampled: bool


def trace_parent(values: Sequence[str]) -> TraceParent | None:
    """The caller's trace; None where the header is missing, there twice, or not exactly as the specification says.

    Args:
        values: of every `traceparent` header of the request.
    """
    if len(values) != 1 or len(values[0]) > _MAX_CHARACTERS:
        return None
    found = _TRACEPARENT.fullmatch(values[0])
    if found is None or (found["version"] == "00" and found["more"]):
        return None
    return TraceParent(found["trace"], found["span"], bool(int(found["flags"], 16) & _SAMPLED))
