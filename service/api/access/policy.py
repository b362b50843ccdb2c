"""Route policies: API key roles, rate limit, admission and replica role of a route, attached where it is defined."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from starlette.routing import BaseRoute

from service.api.problems import ProblemRenderer

Role = Literal["embed", "segment", "admin"]
Quota = Literal["embed", "segment"]
PermitName = Literal[
    "uploads", "downloads", "deletions", "prompt requests", "everything requests", "downloads of page files"
]

EMBED: Final = "embed"
SEGMENT: Final = "segment"
ADMIN: Final = "admin"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """Access, admission and problems of one route. A key with the role admin may use every route.

    Args:
        roles: Sets of roles. A key needs every role of one of the sets. Without any set, only admin keys are allowed.
        quota: Rate limit of the key that a request counts against: "embed" for requests or answers of megabytes,
            "segment" for small ones. None: no rate limit applies.
        permit: Name of the permits that requests hold until the answer is sent. None: no permit is needed.
        replica_role: Role of the replicas that answer, beside those of the role all. None: every replica answers.
        is_open: Whether requests need no API key.
        logs_detail: Whether the log line of a request has the detail of its problem: the client does not show it.
        problem_renderer: Function that renders the problems of the route. None: problem documents.
    """

    roles: tuple[frozenset[Role], ...] = ()
    quota: Quota | None = None
    permit: PermitName | None = None
    replica_role: Literal["embed", "segment"] | None = None
    is_open: bool = False
    logs_detail: bool = False
    problem_renderer: ProblemRenderer | None = None

    def allows(self, roles: frozenset[Role]) -> bool:
        """Return whether a key with these roles may use the route."""
        return ADMIN in roles or any(needed <= roles for needed in self.roles)


EMBED_KEYS: Final[tuple[frozenset[Role], ...]] = (frozenset({EMBED}),)
SEGMENT_KEYS: Final[tuple[frozenset[Role], ...]] = (frozenset({SEGMENT}),)
EMBED_OR_SEGMENT_KEYS: Final = EMBED_KEYS + SEGMENT_KEYS

OPEN: Final = RoutePolicy(is_open=True)
ANY_KEY: Final = RoutePolicy(roles=(frozenset(),))
ADMIN_ONLY: Final = RoutePolicy()
# A labelling tool sends its image with every click.
ADAPTER_PREDICTION: Final = RoutePolicy((frozenset({EMBED, SEGMENT}),), EMBED, "uploads", logs_detail=True)

_ATTRIBUTE: Final = "route_policy"


def with_policy(policy: RoutePolicy) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator that attaches a policy to the function that answers a route.

    It stands below FastAPI's own decorator.

    Args:
        policy: Access and admission rules of the route.
    """

    def attach(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ATTRIBUTE, policy)
        return endpoint

    return attach


def policies_of(routes: Iterable[BaseRoute]) -> Mapping[tuple[str, str], RoutePolicy]:
    """Return the policy of each HTTP method and route template.

    Args:
        routes: All routes of the application.

    Raises:
        ValueError: A route has no policy. The service must not start then.
    """
    policies = {}
    for route in routes:
        path = getattr(route, "path", "")
        policy = getattr(getattr(route, "endpoint", None), _ATTRIBUTE, None)
        if not isinstance(policy, RoutePolicy):
            raise ValueError(f"the route {path} has no policy; put @with_policy(...) below its decorator")  # noqa: TRY004
        policies.update({(method, path): policy for method in getattr(route, "methods", None) or ()})
    return policies
