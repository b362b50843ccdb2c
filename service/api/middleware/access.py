"""Access as pure ASGI: whose key it is, whether it may, and whether it may now; before anything of a body is read."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.access.keys import Key, KeyRing
from service.api.access.policy import ADMIN, ANY_KEY, DOCS_PATHS, Budget, Rule, rules_of
from service.api.access.rate_limit import RateLimiter
from service.api.problems import problem_response
from service.cache.redis.rate_buckets import RateBuckets
from service.errors import Forbidden, ServiceError, Unauthorized
from service.telemetry.metrics import Metrics


class RateLimiters:
    """What is left of each key's limits in this replica.

    Args:
        shared: what all replicas have let in; None without Redis.
    """

    def __init__(self, shared: RateBuckets | None) -> None:
        self._shared = shared
        self._by_name: dict[tuple[str, Budget], RateLimiter] = {}

    def enter(self, key: Key, budget: Budget, held: ExitStack) -> None:
        """Count one more request; it ends with `held`.

        Raises:
            RateLimited: one too many.
        """
        allowed = key.limits.get(budget)
        if allowed is None:
            return
        name = key.caller.name
        found = self._by_name.get((name, budget))
        if found is None:
            found = self._by_name[name, budget] = RateLimiter(allowed, f"{name}:{budget}", self._shared)
        elif found.allowed != allowed:  # the file of keys was changed
            found.change(allowed)
        held.enter_context(found.permit())

    async def aclose(self) -> None:
        """Stop telling Redis."""
        for rate_limiter in self._by_name.values():
            await rate_limiter.aclose()


class AccessMiddleware:
    """Asks for one of the keys, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

    Tools that can do neither send it as the password of `Authorization: Basic` (Label Studio) or as `Token`
    (X-AnyLabeling). Browsers are told of Basic at the documentation alone, whose address somebody types: anywhere else
    they would ask people for a name and a password behind the playground's requests.

    Sets `caller` in the request's state, on whose behalf everything behind works, and `key`, the key's name for the
    log.

    Args:
        app: reads the state that RequestMiddleware writes, so it is inside of it.
        ring: the keys that are known.
        rate_limiters: their limits.
        routes: of the application, all of them.
        open_paths: templates that ask for no key.
        metrics: counts refusals.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ring: KeyRing,
        rate_limiters: RateLimiters,
        routes: Sequence[BaseRoute],
        open_paths: frozenset[str],
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._ring = ring
        self._rate_limiters = rate_limiters
        self._rules: Mapping[tuple[str, str], Rule] = rules_of(routes, open_paths)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # What no route answers is told to those with a key alone, as 404 or 405.
        rule = self._rules.get((scope["method"], scope["state"]["route"]), ANY_KEY)
        if rule.is_open:
            await self._app(scope, receive, send)
            return
        with ExitStack() as held:
            try:
                self._admit(scope, rule, held)
            except ServiceError as error:
                self._metrics.rejected(error.code).inc()
                scope["state"]["problem"] = error.code
                response = problem_response(error, scope["state"]["request_id"])
                if isinstance(error, Unauthorized) and _is_typed(scope):
                    # A line of its own: browsers read the first scheme of a line.
                    response.headers.append("WWW-Authenticate", 'Basic realm="EdgeSAM", charset="UTF-8"')
                await response(scope, receive, send)
                return
            await self._app(scope, receive, send)

    def _admit(self, scope: Scope, rule: Rule, held: ExitStack) -> None:
        """Let the request through; `held` gives back what it takes.

        Raises:
            Unauthorized, Forbidden, RateLimited: it may not.
        """
        given = given_key(scope["headers"])
        key = self._ring.find(given.key) if given.key else None
        if key is None or (given.is_foreign and scope["method"] not in _SAFE_METHODS):
            raise Unauthorized("Send a valid API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        scope["state"].update(caller=key.caller, key=key.caller.name)
        if not rule.allows(key.roles):
            choices = [sorted(roles) for roles in rule.roles] + [[ADMIN]]
            words = ", or ".join(" and ".join(roles) for roles in choices)
            detail = f"This needs a key with {words}; this one has {' and '.join(sorted(key.roles))}."
            if given.is_password and _is_typed(scope):
                raise Unauthorized(detail)  # a browser would keep to the key until it is closed, and never ask again
            raise Forbidden(detail, extra={"roles": choices})
        if rule.budget is not None and key.limits:
            self._rate_limiters.enter(key, rule.budget, held)


def _is_typed(scope: Scope) -> bool:
    """Whether this is where people go by typing an address, which sends no header."""
    return scope["state"]["route"] in DOCS_PATHS


@dataclass(frozen=True, slots=True)
class Given:
    """What a request brings.

    Args:
        key: empty if there is none.
        is_password: it came by basic authentication, which a browser goes on sending by itself.
        is_foreign: and it was a page of another site that made the browser send it.
    """

    key: bytes
    is_password: bool = False
    is_foreign: bool = False


def given_key(headers: Iterable[tuple[bytes, bytes]]) -> Given:
    """The key that a request carries; a bearer's is taken before all others.

    Args:
        headers: of the request, names in lower case. Of several with one name the first counts, as everywhere.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _HEADERS:
            found.setdefault(name, value)
    scheme, _, token = found.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return Given(token.strip())
    if own := found.get(b"x-api-key") or found.get(b"token"):
        return Given(own)
    if scheme.lower() == b"basic":
        with suppress(ValueError):  # not base64
            password = base64.b64decode(token.strip(), validate=True).partition(b":")[2]
            return Given(password, is_password=True, is_foreign=found.get(b"sec-fetch-site") in _OTHER_SITES)
    return Given(b"")


_HEADERS: Final = frozenset({b"authorization", b"x-api-key", b"token", b"sec-fetch-site"})
# What a browser says of a page that is not of this very origin; tools say nothing.
_OTHER_SITES: Final = frozenset({b"cross-site", b"same-site"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
