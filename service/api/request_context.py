"""The request context of a route, for the work behind it."""

from starlette.requests import Request

from service.inference.context import RequestContext
from service.inference.scheduling.deadline import Deadline


def request_context(request: Request, *, timeout_s: float, work: str) -> RequestContext:
    """Return the context of a request, after its body was read: a slow upload does not count towards the deadline.

    Args:
        request: Request with the state that RequestMiddleware and AccessMiddleware set.
        timeout_s: Seconds that the work may take.
        work: Name of the work in the error of a missed deadline, such as `Segmenting`.
    """
    state = request.state
    return RequestContext(state.timings, state.caller, Deadline(timeout_s, work), state.usage)
