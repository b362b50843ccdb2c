"""Access as pure ASGI: whose key it is, whether it may, and whether it may now; before anything of a body is read."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Final

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.access.keys import Key, KeyRing
from service.api.access.rules import ADMIN, ANY_KEY, Budget, Rule, rules_of
from service.api.problems import problem_response
from service.cache.bucket import SharedBuckets
from service.errors import Forbidden, ServiceError, Unauthorized
from service.inference.allowance import Allowance
from service.metrics import Metrics


class Allowances:
    """What is left of each key's limits in this replica.

    Args:
        shared: what all replicas have let in; None without Redis.
    """

    def __init__(self, shared: SharedBuckets | None) -> None:
        self._shared = shared
        self._by_name: dict[tuple[str, Budget], Allowance] = {}

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
            found = self._by_name[name, budget] = Allowance(allowed, f"{name}:{budget}", self._shared)
        elif found.allowed != allowed:  # the file of keys was changed
            found.change(allowed)
        held.enter_context(found.permit())

    async def aclose(self) -> None:
        """Stop telling Redis."""
        for allowance in self._by_name.values():
            await allowance.aclose()


class AccessMiddleware:
    """Asks for one of the keys, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

    Tools that can do neither send it as the password of `Authorization: Basic` (Label Studio) or as `Token`
    (X-AnyLabeling). Sets `caller` in the request's state, on whose behalf everything behind works, and `key`, the
    key's name for the log.

    Args:
        app: reads the state that RequestMiddleware writes, so it is inside of it.
        ring: the keys that are known.
        allowances: their limits.
        routes: of the application, all of them.
        open_paths: templates that ask for no key.
        metrics: counts refusals.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ring: KeyRing,
        allowances: Allowances,
        routes: Sequence[BaseRoute],
        open_paths: frozenset[str],
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._ring = ring
        self._allowances = allowances
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
                self._metrics.rejected_total.labels(error.code).inc()
                scope["state"]["problem"] = error.code
                await problem_response(error, scope["state"]["request_id"])(scope, receive, send)
                return
            await self._app(scope, receive, send)

    def _admit(self, scope: Scope, rule: Rule, held: ExitStack) -> None:
        """Let the request through; `held` gives back what it takes.

        Raises:
            Unauthorized, Forbidden, RateLimited: it may not.
        """
        given = given_key(scope["headers"])
        key = self._ring.find(given) if given else None
        if key is None:
            raise Unauthorized("Send a valid API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        scope["state"].update(caller=key.caller, key=key.caller.name)
        if not rule.allows(key.roles):
            choices = [sorted(roles) for roles in rule.roles] + [[ADMIN]]
            words = ", or ".join(" and ".join(roles) for roles in choices)
            raise Forbidden(
                f"This needs a key with {words}; this one has {' and '.join(sorted(key.roles))}.",
                extra={"roles": choices},
            )
        if rule.budget is not None and key.limits:
            self._allowances.enter(key, rule.budget, held)


def given_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key that a request carries, empty if none; a bearer's is taken before all others.

    Args:
        headers: of the request, names in lower case. Of several with one name the first counts, as everywhere.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _HEADERS:
            found.setdefault(name, value)
    scheme, _, token = found.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return token.strip()
    if own := found.get(b"x-api-key") or found.get(b"token"):
        return own
    if scheme.lower() == b"basic":
        with suppress(ValueError):  # not base64
            return base64.b64decode(token.strip(), validate=True).partition(b":")[2]
    return b""


_HEADERS: Final = frozenset({b"authorization", b"x-api-key", b"token"})
