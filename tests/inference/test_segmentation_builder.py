"""The masks of an answer for models of SAM 2: which outputs come back, in which order, and with which logits."""

import base64

import numpy as np
import orjson
import pytest
from pycocotools import mask as coco

from service.api.rendering import MAX_ALPHA_BYTES, JsonRenderer, RenderOptions
from service.errors import InvalidRequest
from service.inference.backends.prompt_decoders import Decoded
from service.inference.image_key import ImageKey
from service.inference.segmentation_builder import MaskFunctions, SegmentationBuilder
from service.mask_rules import Ranking
from service.sam.decoded_image import ImageInfo
from service.sam.embedding import mask_id
from service.sam.enlarged_pieces import filter_enlarged
from service.sam.frame import Frame
from service.sam.logits import LARGEST_FLOAT16, SAM2_LARGEST_LOGIT
from service.sam.mask_pieces import filter_pieces
from service.sam.mask_prompts import stability
from service.sam.masks import MaskChoice, binary_mask, narrow_stability
from service.sam.prompts import Prompt

SIZE = (512, 512)
FRAME = Frame(SIZE, "stretch")
IMAGE_ID = "0f" * 32
KEY = ImageKey(IMAGE_ID, "", "0" * 16, "float16")
FUNCTIONS = MaskFunctions(binary_mask, filter_pieces, filter_enlarged)
RANKING = Ranking(stability=0.0, predicted_iou=1.0, agreement=0.0)
SAM2 = MaskChoice(ambiguous=(1, 2, 3), other=(0,), fallback=(1, 2, 3))
POINT = Prompt(np.array([[5.0, 6.0]]), np.array([1]))
BOX = Prompt(box=np.array([10.0, 20.0, 90.0, 80.0]))
IOUS = np.array([0.30, 0.50, 0.90, 0.70], np.float32)


def square(side, inside, border=-8.0):
    """Logits (256, 256) of a square mask of `side` cells, with `border` in the cells beside it."""
    logits = np.full((256, 256), -8.0, np.float32)
    logits[: side + 1, : side + 1] = border
    logits[:side, :side] = inside
    return logits


def decoded(*prompts):
    """The decoder's answer, from the four masks of each prompt."""
    logits = np.stack([np.stack(masks) for masks in prompts])
    stabilities = np.stack([stability(masks) for masks in logits])
    narrow = np.concatenate([narrow_stability(masks[:1]) for masks in logits])
    return Decoded(logits, np.stack([IOUS] * len(prompts)), stabilities, narrow)


STABLE = [square(10 * (i + 2), 3.0) for i in range(4)]
UNSTABLE = [square(20, 3.0, border=0.0), *STABLE[1:]]  # 400 of 441 cells


@pytest.fixture
def answer(new_context):
    """A function from the decoder's answer to the masks of each prompt, as /segment answers them in JSON."""

    def ask(
        prompts,
        found,
        multimask="auto",
        *,
        largest=SAM2_LARGEST_LOGIT,
        choice=SAM2,
        mask_format="logits",
        kept=None,
        max_alpha_bytes=MAX_ALPHA_BYTES,
    ):
        builder = SegmentationBuilder(
            key=KEY,
            image=ImageInfo(SIZE, 1, "full"),
            frame=FRAME,
            prompts=prompts,
            boxes=None,
            multimask=multimask,
            ranking=RANKING,
            choice=choice,
            largest_logit=largest,
            renderer=JsonRenderer(
                IMAGE_ID,
                "edgetam",
                len(prompts),
                RenderOptions(mask_format, crop=False, tolerance_pixels=0),
                max_alpha_bytes=max_alpha_bytes,
            ),
            cleanup="none",
            functions=FUNCTIONS,
            on_masks=([] if kept is None else kept).extend,
            context=new_context(),
        )
        found_answer = builder.add_and_finish(range(len(prompts)), found)
        document = orjson.loads(found_answer.body)
        return [result["masks"] for result in document["results"]]

    return ask


def logits_of(mask):
    return np.frombuffer(base64.b64decode(mask["logits"]), "<f2").reshape(256, 256).astype(np.float32)


def test_each_prompt_of_a_request_gets_its_own_choice(answer):
    """Output 0 of the second prompt is not stable, that of the third is empty, which counts as stable."""
    empty = [np.full((256, 256), -8.0, np.float32), *STABLE[1:]]

    (first,), (second,), (third,), *_ = answer([BOX] * 3, decoded(STABLE, UNSTABLE, empty))

    assert np.array_equal(logits_of(first), STABLE[0])
    assert np.array_equal(logits_of(second), UNSTABLE[2])  # the highest predicted IoU
    assert third["area"] == 0
    ious = [IOUS[0], IOUS[2], IOUS[0]]
    for mask, iou in zip((first, second, third), ious, strict=True):
        assert mask["score"] == mask["predicted_iou"] == pytest.approx(iou)


@pytest.mark.parametrize("masks", [STABLE, UNSTABLE], ids=["stable", "not stable"])
def test_a_single_point_gets_outputs_1_to_3_by_predicted_iou(answer, masks):
    (auto,) = answer([POINT], decoded(masks))
    (three,) = answer([BOX], decoded(masks), 3)
    (four,) = answer([POINT], decoded(masks), 4)

    assert [mask["predicted_iou"] for mask in auto] == pytest.approx(IOUS[[2, 3, 1]])
    assert auto == three
    assert [mask["predicted_iou"] for mask in four] == pytest.approx(IOUS[[2, 3, 1, 0]])


def test_one_mask_for_a_single_point_is_that_of_the_rule(answer):
    ((stable,),) = answer([POINT], decoded(STABLE), 1)
    ((other,),) = answer([POINT], decoded(UNSTABLE), 1)

    assert (stable["predicted_iou"], other["predicted_iou"]) == pytest.approx((IOUS[0], IOUS[2]))


def test_models_without_a_fallback_answer_output_0(answer):
    found = decoded(UNSTABLE)
    found = Decoded(found.mask_logits, found.iou_predictions, found.stability)

    ((mask,),) = answer([BOX], found, choice=MaskChoice(ambiguous=(1, 2, 3)))

    assert np.array_equal(logits_of(mask), UNSTABLE[0])


def test_logits_are_limited_after_the_mask_was_enlarged(answer):
    """An enlarged pixel between +1 and -1000 is outside. With limits of ±32 more of the border would be inside."""
    steep = np.full((256, 256), -1000.0, np.float32)
    steep[:, :128] = 40.0
    found = decoded([steep, *STABLE[1:]])

    stored = []
    ((mask,),) = answer([BOX], found, kept=stored)
    limited = logits_of(mask)
    ((_, refinable),) = stored
    ((drawn,),) = answer([BOX], found, mask_format="rle")
    ((unlimited,),) = answer([BOX], found, largest=LARGEST_FLOAT16)

    assert (limited.min(), limited.max()) == (-32.0, 32.0)
    assert np.array_equal(refinable, limited)  # a refinement by the mask_id starts from the limited logits
    assert mask["mask_id"] == mask_id(KEY.cache_key, limited)
    assert (logits_of(unlimited).min(), logits_of(unlimited).max()) == (-1000.0, 40.0)
    assert mask["area"] == unlimited["area"] == coco.decode(drawn["rle"]).sum()
    assert FUNCTIONS.enlarge(steep, FRAME).area < FUNCTIONS.enlarge(np.clip(steep, -32, 32), FRAME).area


def test_an_answer_whose_alphas_take_too_many_bytes_is_refused(answer):
    ((first, *_),) = answer([POINT], decoded(STABLE), mask_format="alpha")
    limit = 3 * len(first["alpha"])

    (three,) = answer([POINT], decoded(STABLE), mask_format="alpha", max_alpha_bytes=limit + 1000)
    with pytest.raises(InvalidRequest, match="fewer prompts"):
        answer([POINT] * 2, decoded(STABLE, STABLE), mask_format="alpha", max_alpha_bytes=limit)

    assert len(three) == 3
