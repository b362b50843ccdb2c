"""The fast decoder equals the plain one: outputs and gradients, for every kind of prompt."""

import pytest
import torch

from model_store.network.mask_decoder import MaskDecoder
from model_store.training.objectives.fast_decoder import decode_tokens

GRID, IMAGES, PROMPTS, TOKENS = 8, 3, 4, 3


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def tolerance(dtype):
    return 1e-6 if dtype == torch.float32 else 1e-10


@pytest.fixture
def decoder(dtype):
    return a_decoder().to(dtype)


def a_decoder():
    """Biases and norms away from zeros and ones, which would hide a term."""
    torch.manual_seed(0)
    decoder = MaskDecoder()
    with torch.no_grad():
        for value in decoder.parameters():
            value.add_(torch.randn_like(value), alpha=0.02)
    return decoder


def inputs(dtype, *, codes=1):
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "image": (IMAGES, 256, GRID, GRID),
        "code": (codes, 256, GRID, GRID),
        "sparse": (IMAGES * PROMPTS, TOKENS, 256),
        "no_mask": (1, 256),
        "dense": (IMAGES * PROMPTS, 256, GRID, GRID),
    }
    drawn = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return {name: value.requires_grad_(name != "code") for name, value in drawn.items()}


def plain(decoder, given, *, has_mask):
    """Image by image through `MaskDecoder`."""
    logits, iou = [], []
    for row in range(IMAGES):
        own = slice(row * PROMPTS, (row + 1) * PROMPTS)
        none = given["no_mask"].reshape(1, 256, 1, 1).expand(PROMPTS, 256, GRID, GRID)
        code = given["code"][row % len(given["code"])][None]
        dense = given["dense"][own] if has_mask else none
        decoded = decoder(given["image"][row : row + 1], code, given["sparse"][own], dense)
        logits.append(decoded[0])
        iou.append(decoded[1])
    return torch.cat(logits), torch.cat(iou)


def fast(decoder, given, *, has_mask):
    def tokens(name):
        return given[name].flatten(2).transpose(1, 2)

    about = {"dense": tokens("dense")} if has_mask else {"no_mask": given["no_mask"]}
    return decode_tokens(decoder, tokens("image"), tokens("code"), given["sparse"], PROMPTS, **about)


def gradients(decode, decoder, given, *, has_mask):
    """Of every parameter and input, by name."""
    logits, iou = decode(decoder, given, has_mask=has_mask)
    weights = torch.linspace(-1, 1, logits[0].numel(), dtype=logits.dtype).reshape(logits[0].shape)
    wanted = {**dict(decoder.named_parameters()), **{k: v for k, v in given.items() if v.requires_grad}}
    found = torch.autograd.grad((logits * weights).sum() + iou.square().sum(), list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found, strict=True))


@pytest.mark.parametrize("has_mask", [False, True], ids=["no mask", "mask prompts"])
@pytest.mark.parametrize("codes", [1, IMAGES], ids=["one code", "a code each"])
def test_outputs_equal_those_of_the_plain_decoder(decoder, dtype, tolerance, has_mask, codes):
    given = inputs(dtype, codes=codes)

    with torch.no_grad():
        expected = plain(decoder, given, has_mask=has_mask)
        found = fast(decoder, given, has_mask=has_mask)

    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("has_mask", [False, True], ids=["no mask", "mask prompts"])
def test_gradients_equal_those_of_the_plain_decoder(decoder, dtype, has_mask):
    given = inputs(dtype)
    # In float32 a unit near 0 may be on in one of them and off in the other; float64 is the strict half of this test.
    tolerance = 1e-3 if dtype == torch.float32 else 1e-10

    expected = gradients(plain, decoder, given, has_mask=has_mask)
    found = gradients(fast, decoder, given, has_mask=has_mask)

    # A key's bias shifts all scores of a row alike: its true gradient is 0, and what the plain decoder has is rounding.
    vanishing = {name for name in expected if name.endswith("k_proj.bias")}
    unused = {name for name, value in expected.items() if value is None}
    assert unused == {"no_mask" if has_mask else "dense"}
    for name in expected.keys() - vanishing - unused:
        assert (found[name] - expected[name]).norm() <= tolerance * expected[name].norm(), name
    largest = max(value.norm() for value in expected.values() if value is not None)
    for name in vanishing:
        assert expected[name].norm() <= tolerance * largest


def test_bfloat16_gives_masks_in_float32_near_those_of_float32():
    decoder, given = a_decoder(), inputs(torch.float32)

    with torch.no_grad():
        expected, _ = fast(decoder, given, has_mask=False)
        with torch.autocast("cpu", torch.bfloat16):
            found, iou = fast(decoder, given, has_mask=False)

    assert found.dtype == iou.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_stays_behind_on_the_cpu():
    decoder, given = a_decoder(), inputs(torch.float32)
    expected, _ = fast(decoder, given, has_mask=True)

    on_device = {name: value.detach().to("cuda") for name, value in given.items()}
    found, _ = fast(decoder.to("cuda"), on_device, has_mask=True)

    assert (found.cpu() - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"no_mask": None}, "no_mask or dense"),
        ({"sparse": torch.zeros(5, 2, 256)}, "need 2 rows"),
        ({"image": torch.zeros(2, 60, 256), "code": torch.zeros(1, 60, 256)}, "square"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message):
    given = {
        "image": torch.zeros(2, 64, 256), "code": torch.zeros(1, 64, 256), "sparse": torch.zeros(2, 2, 256),
        "prompts": 1, "no_mask": torch.zeros(1, 256),
    }  # fmt: skip

    with pytest.raises(ValueError, match=message):
        decode_tokens(MaskDecoder(), **given | change)
