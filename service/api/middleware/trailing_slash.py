"""A slash at the end of an address is left out, so that both addresses have the same answer."""

from starlette.types import Scope


def remove_trailing_slash(scope: Scope) -> bool:
    """Remove the slash at the end of the path, except where the path is nothing else.

    A redirect instead would cost a request, and many clients repeat a POST as GET and lose its body.

    Args:
        scope: ASGI scope of the request, which is changed.

    Returns:
        Whether there was one. Relative links of a page then start one level lower.
    """
    path: str = scope["path"]
    if not path.endswith("/") or len(path) <= len(scope.get("root_path", "")) + 1:
        return False
    scope["path"] = path[:-1]
    if raw := scope.get("raw_path"):
        scope["raw_path"] = raw.removesuffix(b"/")
    return True
