"""The architectures that training and distillation know."""

from model_store.architectures import ARCHITECTURES, Architecture


def training_problem(architecture: Architecture) -> str | None:
    """Return why an architecture can neither be trained nor teach another one here; None if it can."""
    if _is_trainable(architecture):
        return None
    known = ", ".join(name for name, other in ARCHITECTURES.items() if _is_trainable(other))
    return (
        f"{architecture.name} can neither be trained nor be a teacher here: it stretches images, and its decoder reads "
        f"three maps of an image, while training has letterboxed images and one map. These architectures can: {known}"
    )


def _is_trainable(architecture: Architecture) -> bool:
    return architecture.mask_decoder == "sam" and architecture.resize == "letterbox"
