"""Licences of models in words: whether they allow commercial use."""

import re
from typing import Final

# Identifiers of SPDX, in lower case, and the title with which the model store states the licence of published models.
# Their texts allow every use.
_COMMERCIAL: Final = frozenset(
    {
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "unlicense",
        "apache license 2.0",
    }
)  # fmt: skip
_NON_COMMERCIAL: Final = re.compile(r"non-?\s?commercial|\bcc[- ]by[- ]nc\b", re.IGNORECASE)
# An address or a remark may follow the name. Other words may restrict it.
_REMARK: Final = re.compile(r",? (?:https?://\S+|\([^()]*\))$")


def allows_commercial_use(licence: str) -> bool | None:
    """Return whether a licence allows commercial use; None if that is not known.

    Args:
        licence: Licence as a manifest states it: a name, which an address or a remark may follow, or words.
    """
    if _NON_COMMERCIAL.search(licence):
        return False
    name = _REMARK.sub("", licence.strip())
    return True if name.lower() in _COMMERCIAL else None
