"""The request context: timings, caller, deadline and start of one request, passed as one object."""

from dataclasses import dataclass, field, replace
from time import monotonic

from service.inference.scheduling.deadline import Deadline
from service.inference.scheduling.fairness import Caller
from service.telemetry.timings import Timings
from service.telemetry.usage import KeyUsage


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The values that accompany the work of one request.

    Args:
        timings: Stage timings of the request.
        caller: API key of the request. Its namespace decides which images and masks the request finds.
        deadline: Bound on the work of the request.
        usage: Usage of the API key; None where it is not counted.
        began: Start of the work, in seconds of `time.monotonic`, before it looked anything up. Work that began before
            the deletion of an image keeps nothing of that image.
    """

    timings: Timings
    caller: Caller
    deadline: Deadline
    usage: KeyUsage | None = None
    began: float = field(default_factory=monotonic)

    def restarted(self) -> "RequestContext":
        """Return this context with a start of now, for work that later requests may join."""
        return replace(self, began=monotonic())
