"""Label Studio's labelling interface, which is XML: the control that a mask becomes a region of, and its image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from xml.parsers import expat

from service.api.problems import broken_rule

RegionType = Literal["brushlabels", "polygonlabels"]

_CONTROLS: Final[dict[str, RegionType]] = {"BrushLabels": "brushlabels", "PolygonLabels": "polygonlabels"}


@dataclass(slots=True)
class Control:
    """A tag BrushLabels or PolygonLabels.

    Args:
        region_type: Type of its regions.
        name: Name of the tag.
        to_name: Name of the image that it belongs to.
        labels: Values and aliases of its labels.
    """

    region_type: RegionType
    name: str
    to_name: str
    labels: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Interface:
    """What the adapter uses of a labelling interface.

    Args:
        controls: Tags BrushLabels and PolygonLabels, in their order.
        images: Attribute `value` of each tag Image, by its name.
    """

    controls: Sequence[Control]
    images: dict[str, str]

    def control(self, to_name: str, labels: Sequence[str]) -> Control:
        """Return the control for masks of an image: one that has the label if there is one, and BrushLabels first.

        Args:
            to_name: Name of the image; empty for any.
            labels: Labels of the keypoint or rectangle.

        Raises:
            InvalidRequest: There is none.
        """
        found = [control for control in self.controls if to_name in ("", control.to_name)]
        if not found:
            raise broken_rule(
                "/label_config",
                "has no BrushLabels or PolygonLabels for this image. Add one of them: masks come back as its regions.",
            )
        wanted = set(labels)  # the smaller of two sets is searched in the other
        return min(found, key=lambda control: (control.labels.isdisjoint(wanted), control.region_type != "brushlabels"))

    def image_key(self, control: Control) -> str:
        """Return the member of a task's data that has the image of a control.

        Raises:
            InvalidRequest: The control belongs to no Image, or its value names no single member.
        """
        key = self.images.get(control.to_name, "")
        if not re.fullmatch(r"\$\w+", key):
            raise broken_rule(
                "/label_config",
                'has no Image with a value such as "$image" that BrushLabels or PolygonLabels belongs to.',
            )
        return key[1:]


def read_interface(xml: str) -> Interface:
    """Return what the adapter uses of a labelling interface. A document type, with its entities, is refused. Blocking.

    Raises:
        InvalidRequest: The text is not XML, or has a document type.
    """
    controls: list[Control] = []
    images: dict[str, str] = {}
    open_tags: list[Control | None] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        control = open_tags[-1] if open_tags else None
        if name == "Label" and control is not None:
            control.labels.update(attributes[key] for key in ("value", "alias") if key in attributes)
        elif name == "Image":
            images.setdefault(attributes.get("name", ""), attributes.get("value", ""))
        elif name in _CONTROLS:
            control = Control(_CONTROLS[name], attributes.get("name", ""), attributes.get("toName", ""))
            controls.append(control)
        open_tags.append(control)

    def refuse(*_: object) -> None:
        raise broken_rule("/label_config", "has a document type; remove it.")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_tags.pop()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise broken_rule("/label_config", f"is not XML ({error}).") from error
    return Interface(controls, images)
