"""Adapters: the protocols of labelling tools, one file each. The setting `adapters` switches them on."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from fastapi import FastAPI

from service.api.adapters.cvat import install_cvat
from service.api.adapters.exchange import Exchange
from service.api.adapters.label_studio import install_label_studio
from service.api.adapters.roboflow import install_roboflow
from service.api.adapters.x_anylabeling import install_x_anylabeling

ADAPTERS: Final[Mapping[str, Callable[[FastAPI, Exchange], None]]] = {
    "cvat": install_cvat,
    "label-studio": install_label_studio,
    "roboflow": install_roboflow,
    "x-anylabeling": install_x_anylabeling,
}


def install_adapters(app: FastAPI, names: Iterable[str], exchange: Exchange) -> None:
    """Add the routes of the named adapters.

    Args:
        app: Application that gets the routes.
        names: Keys of ADAPTERS.
        exchange: Access of the adapters to the service.
    """
    for name in names:
        ADAPTERS[name](app, exchange)
