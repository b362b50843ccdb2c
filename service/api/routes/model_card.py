"""The route of model cards that are files of their artifacts."""

from typing import Annotated

from fastapi import FastAPI, Path
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from service.api.access.policy import OPEN, with_policy
from service.api.schemas import ProblemModel
from service.inference.model_card import is_address
from service.inference.served_models import ServedModel, ServedModels


def install_card_route(app: FastAPI, models: ServedModels) -> None:
    """Add `GET /models/{name}/card`. It is open, because links of a page carry no key.

    Args:
        app: Application that gets the route.
        models: Served models.
    """

    @app.get(
        "/models/{name}/card",
        response_class=PlainTextResponse,
        responses=ProblemModel.responses(404, 422),
        operation_id="model_card",
        summary="Read a model card",
        description="Markdown, for models whose artifact has its card as a file: `card` in /models names this address.",
    )
    @with_policy(OPEN)
    async def read_card(name: Annotated[str, Path(description="Name of the model.")]) -> PlainTextResponse:
        card = models.get(name).card
        if card is None:
            raise HTTPException(404)
        return PlainTextResponse(card)


def card_address(model: ServedModel) -> str:
    """Return the address of a model card, relative to the address of the service if the service has it; empty without.

    Args:
        model: Served model.
    """
    if model.card is not None:
        return f"models/{model.name}/card"
    return model.manifest.card if is_address(model.manifest.card) else ""
