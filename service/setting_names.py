"""The names of environment variables: those that are no setting, and the nearest setting to a wrong name."""

import difflib
import os
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "EDGESAM_"
# Variables of the client's command line and of the model store.
_VARIABLES_OF_OTHERS: Final = frozenset({"EDGESAM_URL", "EDGESAM_API_KEY", "EDGESAM_STORE_DIR", "EDGESAM_MIRROR"})


def unknown_variables(variables: Sequence[str]) -> list[str]:
    """Return the names in the environment that begin like settings and are none, sorted.

    Args:
        variables: Names of the environment variables of all settings.
    """
    known = {*variables, *_VARIABLES_OF_OTHERS}
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def nearest_variable(name: str, variables: Sequence[str]) -> str | None:
    """Return the setting whose name is most similar to another name; None where no name is similar.

    Args:
        name: Name of an environment variable.
        variables: Names of the environment variables of all settings.
    """
    names = [variable.removeprefix(PREFIX) for variable in variables]
    found = difflib.get_close_matches(name.upper().removeprefix(PREFIX), names, n=1)
    return f"{PREFIX}{found[0]}" if found else None
