"""What each route asks of a key: a role, and the budget that a request of it is taken from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from starlette.routing import BaseRoute

from service.api.routes.playground import is_page

Role = Literal["embed", "segment", "admin"]
Budget = Literal["embed", "segment"]

EMBED: Final = "embed"
SEGMENT: Final = "segment"
ADMIN: Final = "admin"

HEALTH_PATHS: Final = frozenset({"/livez", "/readyz", "/healthz"})
METRICS_PATHS: Final = frozenset({"/metrics"})
DOCS_PATHS: Final = frozenset({"/docs", "/openapi.json"})


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route asks of a key. The role admin may do everything.

    Args:
        roles: sets of roles, one of which the key has to have whole; none: admin alone.
        budget: whose rate and requests at once it counts against; None: against none.
        is_open: asks for no key at all.
    """

    roles: tuple[frozenset[Role], ...] = ()
    budget: Budget | None = None
    is_open: bool = False

    def allows(self, roles: frozenset[Role]) -> bool:
        """Whether a key with these roles may."""
        return ADMIN in roles or any(needed <= roles for needed in self.roles)


OPEN: Final = Rule(is_open=True)
ANY_KEY: Final = Rule(roles=(frozenset(),))
ADMIN_ALONE: Final = Rule()

_EMBED: Final[frozenset[Role]] = frozenset({EMBED})
_SEGMENT: Final[frozenset[Role]] = frozenset({SEGMENT})

# Budget "embed" is for what carries a picture, an embedding or a graph, "segment" for what is small.
_RULES: Final[Mapping[tuple[str, str], Rule]] = {
    ("POST", "/embed"): Rule((_EMBED,), EMBED),
    ("HEAD", "/embed/{image_hash}"): Rule((_EMBED, _SEGMENT), SEGMENT),
    ("GET", "/embed/{image_hash}"): Rule((_EMBED, _SEGMENT), EMBED),
    ("DELETE", "/embed/{image_hash}"): Rule((), SEGMENT),
    ("POST", "/segment"): Rule((_SEGMENT,), SEGMENT),
    ("GET", "/models"): ANY_KEY,
    ("GET", "/models/files/{sha256}"): Rule((_EMBED, _SEGMENT), EMBED),
}
# A labelling tool sends its picture with every click.
_ADAPTER_POST: Final = Rule((_EMBED | _SEGMENT,), EMBED)


def rules_of(routes: Iterable[BaseRoute], open_paths: frozenset[str]) -> Mapping[tuple[str, str], Rule]:
    """The rule of each method and route template that there is; a route that nobody thought of is admin's alone.

    Args:
        routes: of the application, all of them.
        open_paths: templates that ask for no key; health and the playground are open anyway.
    """
    return {
        (method, path): _rule(method, path, getattr(route, "tags", ()), open_paths)
        for route in routes
        for path in [getattr(route, "path", "")]
        for method in getattr(route, "methods", None) or ()
    }


def _rule(method: str, path: str, tags: Iterable[str], open_paths: frozenset[str]) -> Rule:
    if path in HEALTH_PATHS or path in open_paths or is_page(path):
        return OPEN
    if "adapters" in tags:
        return _ADAPTER_POST if method == "POST" else ANY_KEY
    return _RULES.get((method, path), ADMIN_ALONE)
