"""The check of routes that answer with an embedding as one array: a model may have several maps of an image."""

from service.api.problems import broken_rule
from service.errors import InvalidRequest
from service.inference.served_models import ServedModel


def require_single_array(model: ServedModel, remedy: str, *, where: str | None = None) -> None:
    """Raise InvalidRequest for a model whose embedding is more than one array.

    Args:
        model: Model that the request names.
        remedy: Sentence for the client: what to do instead.
        where: JSON pointer to the member that names the model; None where no body names it.
    """
    if not model.manifest.has_high_res:
        return
    message = f"{model.name} has three maps in its embedding, and the answer of this route holds one. {remedy}"
    raise InvalidRequest(message) if where is None else broken_rule(where, message)
