"""Access control as ASGI middleware: it checks API key, role and rate limit before the body is read."""

import base64
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.access.keys import ApiKeys
from service.api.access.policy import ADMIN, ANY_KEY, RoutePolicy
from service.api.access.rate_limit import RateLimiters
from service.api.problems import refuse
from service.api.routes.docs import DOCS_PATHS
from service.errors import Forbidden, ServiceError, Unauthorized
from service.telemetry.metrics import Metrics


class AccessMiddleware:
    """Requires one of the API keys, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

    Tools that cannot send either use the password of `Authorization: Basic` (Label Studio) or the header `Token`
    (X-AnyLabeling). Only the documentation pages offer Basic to browsers, because people type the addresses of these
    pages. With an offer anywhere else, the playground's own requests would make the browser ask for a name and a
    password.

    The middleware sets in the state of the request: `caller`, the name and namespace of the key; `key`, its name for
    the log; and `usage` of the key, if it is counted.

    Args:
        app: Next ASGI application. RequestMiddleware has to be outside of this one: it sets the state that is read.
        keys: Known API keys.
        rate_limiters: Rate limiters of the keys.
        policies: Policies by method and route template, as from `policies_of`.
        metrics: Metrics of the process; refusals are counted there.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: ApiKeys,
        rate_limiters: RateLimiters,
        policies: Mapping[tuple[str, str], RoutePolicy],
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._keys = keys
        self._rate_limiters = rate_limiters
        self._policies = policies
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Only requests with a key get 404 or 405 for a route or method that does not exist.
        policy = self._policies.get((scope["method"], scope["state"]["route"]), ANY_KEY)
        if policy.is_open:
            await self._app(scope, receive, send)
            return
        with ExitStack() as held:
            try:
                self._authorize(scope, policy, held)
            except ServiceError as error:
                response = refuse(scope, error, self._metrics)
                if isinstance(error, Unauthorized) and _is_documentation(scope):
                    # On a line of its own: browsers read the first scheme of a line.
                    response.headers.append("WWW-Authenticate", 'Basic realm="EdgeSAM", charset="UTF-8"')
                await response(scope, receive, send)
                return
            await self._app(scope, receive, send)

    def _authorize(self, scope: Scope, policy: RoutePolicy, held: ExitStack) -> None:
        """Check the key of a request; `held` gets what is released when the request ends.

        Raises:
            Unauthorized, Forbidden, RateLimited: The request is not allowed.
        """
        given = given_key(scope["headers"])
        key = self._keys.find(given.key) if given.key else None
        if key is None or (given.is_foreign and scope["method"] not in _SAFE_METHODS):
            raise Unauthorized("Send a valid API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        scope["state"].update(caller=key.caller, key=key.caller.name)
        if not policy.allows(key.roles):
            choices = [sorted(roles) for roles in policy.roles] + [[ADMIN]]
            needed = ", or ".join(" and ".join(roles) for roles in choices)
            detail = f"This needs an API key with {needed}. This key has {' and '.join(sorted(key.roles))}."
            if given.is_password and _is_documentation(scope):
                raise Unauthorized(detail)  # after a 403 a browser would repeat this key until it is closed
            raise Forbidden(detail, extra={"roles": choices})
        limit = key.limits.get(policy.quota) if policy.quota is not None else None
        if policy.quota is not None and limit is not None:
            held.enter_context(self._rate_limiters.permit(key.caller.name, policy.quota, limit))
        if self._keys.usage is not None:
            scope["state"]["usage"] = self._keys.usage.of(key.caller.name)


def _is_documentation(scope: Scope) -> bool:
    """Return whether people reach this route by typing its address, which sends no header."""
    return scope["state"]["route"] in DOCS_PATHS


@dataclass(frozen=True, slots=True)
class GivenKey:
    """The API key that a request carries.

    Args:
        key: Bytes of the key; empty if there is none.
        is_password: Whether the key came by basic authentication, which browsers repeat by themselves.
        is_foreign: Whether a page of another site made the browser send such a key.
    """

    key: bytes
    is_password: bool = False
    is_foreign: bool = False


def given_key(headers: Iterable[tuple[bytes, bytes]]) -> GivenKey:
    """Return the API key that a request carries. A bearer token precedes all other ways to send a key.

    Args:
        headers: Headers of the request, names in lower case. Of several with one name the first counts.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _HEADERS:
            found.setdefault(name, value)
    scheme, _, token = found.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return GivenKey(token.strip())
    if own := found.get(b"x-api-key") or found.get(b"token"):
        return GivenKey(own)
    if scheme.lower() == b"basic":
        with suppress(ValueError):  # not base64
            password = base64.b64decode(token.strip(), validate=True).partition(b":")[2]
            return GivenKey(password, is_password=True, is_foreign=found.get(b"sec-fetch-site") in _OTHER_SITES)
    return GivenKey(b"")


_HEADERS: Final = frozenset({b"authorization", b"x-api-key", b"token", b"sec-fetch-site"})
# Values of Sec-Fetch-Site in requests from pages of another origin. Tools do not send the header.
_OTHER_SITES: Final = frozenset({b"cross-site", b"same-site"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
