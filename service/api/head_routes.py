"""HEAD for every route that has GET: the same answer and the same policy, without the body (RFC 9110, 9.3.2)."""

from fastapi import FastAPI
from fastapi.routing import APIRoute


def add_head_routes(app: FastAPI) -> None:
    """Add HEAD to every address that has GET and no HEAD of its own. RequestMiddleware leaves the bodies out.

    The routes are not in the OpenAPI document, as they follow from those with GET.

    Args:
        app: Application with all of its routes.
    """
    routes = [route for route in app.router.routes if isinstance(route, APIRoute)]
    with_head = {route.path for route in routes if "HEAD" in (route.methods or ())}
    for route in routes:
        if "GET" in (route.methods or ()) and route.path not in with_head:
            app.add_api_route(
                route.path,
                route.endpoint,
                methods=["HEAD"],
                response_model=route.response_model,
                response_class=route.response_class,
                status_code=route.status_code,
                include_in_schema=False,
            )
