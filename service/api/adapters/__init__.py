"""Protocols of other tools, each translated in one file; the setting `adapters` switches them on."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.api.adapters.exchange import Exchange
from service.api.adapters.label_studio import install_label_studio
from service.api.adapters.roboflow import install_roboflow
from service.api.adapters.x_anylabeling import install_x_anylabeling

ADAPTERS: Final[Mapping[str, Callable[[FastAPI, Exchange], None]]] = {
    "label-studio": install_label_studio,
    "roboflow": install_roboflow,
    "x-anylabeling": install_x_anylabeling,
}


def install_adapters(app: FastAPI, names: Iterable[str], exchange: Exchange) -> set[str]:
    """Add the routes of the named adapters.

    Returns:
        The paths that take a POST. It may carry a picture, so it needs an upload's permit.
    """
    before = len(app.router.routes)
    for name in names:
        ADAPTERS[name](app, exchange)
    added = app.router.routes[before:]
    return {route.path for route in added if isinstance(route, APIRoute) and "POST" in (route.methods or ())}
