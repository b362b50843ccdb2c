"""The rules of a model for its masks, as the manifest states them: which outputs prompts get, and in which order."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.sam.everything.options import (
    MAX_POINTS_PER_SIDE,
    MAX_REGION_AREA,
    MAX_STABILITY_OFFSET,
    EverythingOptions,
    Quality,
)
from service.sam.masks import AGREEMENT

# Stability and predicted IoU lie around 0..1: larger weights mean a mistake.
_Weight = Annotated[float, Field(ge=-100.0, le=100.0, allow_inf_nan=False)]


class Ranking(BaseModel):
    """The rule that orders the masks of one prompt: the one with the highest score comes first.

    The score of output k is ``bias[k] + stability * stability_k + predicted_iou * predicted_iou_k``. Answers state it
    limited to 0..1. The order does not limit it, because a predicted IoU above 1 still tells masks apart.
    The default is EdgeSAM's own rule, the stability score. The official predictors have no term for agreement with
    points, so models that keep their order have 0 there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bias: tuple[_Weight, _Weight, _Weight, _Weight] = Field(
        (0.0, 0.0, 0.0, 0.0), description="Added to the score of each of the decoder's four outputs."
    )
    stability: _Weight = Field(1.0, description="Weight of the stability score.")
    predicted_iou: _Weight = Field(0.0, description="Weight of the IoU that the model predicts.")
    agreement: _Weight = Field(
        AGREEMENT,
        description="Added, for the order alone, to a mask that agrees with all points. Another value needs version 5.",
    )

    @property
    def compares_all(self) -> bool:
        """Whether the rule weighs output 0 against the others, as a calibrated rule does by their biases."""
        return len(set(self.bias)) > 1

    def scores(self, stability: Sequence[float], predicted_iou: Sequence[float]) -> tuple[float, ...]:
        """Return the score of each output of one prompt, not bounded, for the order; see `limited_score`.

        A weight of 0 leaves its term out, also where that term is no number. NaN in a term that counts gives NaN.
        The browser computes the same sum in the same order (web/ranking.js), so that both agree to the last bit.

        Args:
            stability: Stability scores of the four outputs, 0..1.
            predicted_iou: Predicted IoUs of the four outputs, not bounded.
        """
        scores: Sequence[float] = self.bias
        for weight, terms in ((self.stability, stability), (self.predicted_iou, predicted_iou)):
            if weight:
                scores = [score + weight * term for score, term in zip(scores, terms, strict=True)]
        return tuple(scores)


def limited_score(score: float) -> float:
    """Return a score of `Ranking.scores` limited to 0..1, as answers state it; NaN stays NaN."""
    return min(max(score, 0.0), 1.0)  # in this order of arguments NaN stays NaN


# Indices of the decoder's four outputs.
_Output = Annotated[int, Field(ge=0, le=3)]


class AutoMasks(BaseModel):
    """The outputs of the decoder that a prompt gets when it does not say how many masks it wants.

    Output 0 is trained for prompts that mean one object. Outputs 1 to 3 are the whole, a part and a subpart of it.
    The default is EdgeSAM's choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ambiguous: tuple[_Output, ...] = Field(
        (0, 1, 2, 3),
        min_length=1,
        max_length=4,
        description="Outputs that a single point alone gets, ordered by the model's ranking.",
    )
    other: tuple[_Output, ...] = Field(
        (0,),
        min_length=1,
        max_length=4,
        description="Outputs among which the best one, by the model's ranking, is the answer to all other prompts.",
    )
    fallback: tuple[_Output, ...] = Field(
        (),
        max_length=4,
        description="Outputs, the best of which is the answer instead of the only one of `other` where the logits of "
        "that one are not stable. Empty: there is no such choice. Since version 6.",
    )

    @field_validator("ambiguous", "other", "fallback")
    @classmethod
    def _names_each_output_once(cls, outputs: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(outputs)) < len(outputs):
            raise ValueError("it names an output twice")
        return outputs

    @model_validator(mode="after")
    def _falls_back_from_output_0(self) -> Self:
        # The decoder tells the stability at a narrow offset for output 0 alone.
        if self.fallback and self.other != (0,):
            raise ValueError("a fallback needs other = [0]")
        return self


_SAM = EverythingOptions()
_Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class EverythingDefaults(BaseModel):
    """The defaults of everything mode for a model. Those of this class are those of SAM's generator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points_per_side: int = Field(
        _SAM.points_per_side, ge=1, le=MAX_POINTS_PER_SIDE, description="Points of the grid along each side."
    )
    pred_iou_thresh: _Share = Field(_SAM.pred_iou_thresh, description="Quality that a mask has to exceed; 0 keeps all.")
    stability_score_thresh: _Share = Field(
        _SAM.stability_score_thresh, description="Least stability of a mask; 0 keeps all."
    )
    stability_score_offset: float = Field(
        _SAM.stability_score_offset,
        ge=0.0,
        le=MAX_STABILITY_OFFSET,
        allow_inf_nan=False,
        description="Distance of both thresholds of the stability from 0, in logits.",
    )
    box_nms_thresh: _Share = Field(
        _SAM.box_nms_thresh, description="IoU of boxes above which the worse of two masks is dropped."
    )
    min_mask_region_area: int = Field(
        _SAM.min_mask_region_area,
        ge=0,
        le=MAX_REGION_AREA,
        description="Holes and islands of fewer pixels are removed from a mask; 0 keeps them.",
    )
    outputs: tuple[_Output, ...] = Field(
        (1, 2, 3), min_length=1, max_length=4, description="Outputs of the decoder that become masks of each point."
    )
    quality: Quality = Field(
        "predicted_iou",
        description="Number by which masks are filtered (pred_iou_thresh) and ordered: predicted_iou or stability.",
    )

    def options(self, given: Mapping[str, Any], *, max_points_per_side: int) -> EverythingOptions:
        """Return the options of a request. What it lacks has the value of the model.

        Args:
            given: Values of the request under the names of `EverythingOptions`.
            max_points_per_side: Largest number of points along each side of the grid; a larger one of the model is
                reduced to it.
        """
        values = {**self.model_dump(exclude={"outputs", "quality"}), **given}
        values["points_per_side"] = min(values["points_per_side"], max_points_per_side)
        return EverythingOptions(**values)

    @field_validator("outputs")
    @classmethod
    def _rise(cls, outputs: tuple[int, ...]) -> tuple[int, ...]:
        if list(outputs) != sorted(set(outputs)):
            raise ValueError("outputs rise, and none is named twice")
        return outputs
