"""A click with SAM 2's decoder compared with a click with SAM's: EdgeTAM beside EdgeSAM, decoder calls in C alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tools.bench.samples import COLUMNS, Samples, interleaved
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench

from model_store.architectures import architecture
from model_store.checkpoint import seeded_model
from service.native import best_level
from service.native.decoder import NativeDecoder
from service.sam.embedding import S0_SHAPE, S1_SHAPE, TOKENS_SHAPE
from service.sam.prompts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PADDING, POSITIVE

EDGESAM, FLOAT16, FLOAT32 = "EdgeSAM", "EdgeTAM, float16 maps", "EdgeTAM, float32 maps"
POINT, BOX = "a point", "a box"
_ON_POINT = ([[400, 300], [0, 0]], [POSITIVE, PADDING])
_ON_BOX = ([[300, 200], [700, 600]], [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT])
_ON_PADDED_BOX = ([[300, 200], [700, 600], [0, 0]], [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, PADDING])
PROMPTS = {
    (EDGESAM, POINT): _ON_POINT,
    (EDGESAM, BOX): _ON_BOX,
    (FLOAT16, POINT): _ON_POINT,
    (FLOAT16, BOX): _ON_PADDED_BOX,
    (FLOAT32, POINT): _ON_POINT,
}
Calls = dict[tuple[str, str, int], Callable[[], Any]]


def measure(bench: Workbench) -> Section:
    """Measure prompts on one image with random weights, with one thread and with all."""
    samples = interleaved(_calls(bench), bench.effort.rounds, bench.effort.calls) if best_level() else {}
    values = {
        f"sam2.{key}_{'one' if threads == 1 else 'all'}": _ratio(samples, FLOAT16, prompt, threads)
        for key, prompt in (("click_ratio", POINT), ("box_ratio", BOX))
        for threads in bench.thread_counts
        if samples
    }
    return Section(
        "EdgeTAM beside EdgeSAM",
        """
            Decoder calls in C, all four masks, without HTTP. EdgeTAM has a token more, and adds two maps of the image
            while it enlarges its own: 6 MiB in float16, 12 MiB in float32. Behind a box it has a padding point more.
            Weights and maps are random, which does not change the speed.
            """,
        [
            Table(
                "",
                ["decoder", "prompt", "threads", *COLUMNS, "÷ EdgeSAM"],
                [
                    [name, prompt, threads, *own.cells(), _ratio(samples, name, prompt, threads)]
                    for (name, prompt, threads), own in samples.items()
                ],
            )
        ],
        values,
    )


def _ratio(samples: Mapping[tuple[str, str, int], Samples], name: str, prompt: str, threads: int) -> float:
    return samples[name, prompt, threads].p50 / samples[EDGESAM, prompt, threads].p50


def _calls(bench: Workbench) -> Calls:
    random = np.random.default_rng(0)
    tokens, s1, s0 = (random.normal(0.0, 0.3, shape).astype(np.float32) for shape in (TOKENS_SHAPE, S1_SHAPE, S0_SHAPE))
    high_res = {EDGESAM: None, FLOAT16: (s1.astype(np.float16), s0.astype(np.float16)), FLOAT32: (s1, s0)}
    sam, sam2 = (_decoder(name, max(bench.thread_counts)) for name in ("edgesam", "edgetam"))
    calls: Calls = {}
    for threads in bench.thread_counts:
        for (name, prompt), (points, labels) in PROMPTS.items():
            decoder = sam if name == EDGESAM else sam2
            state = decoder.prepare(tokens, threads=threads)
            calls[name, prompt, threads] = _call(decoder, state, points, labels, threads, high_res[name])
    return calls


def _decoder(name: str, threads: int) -> NativeDecoder:
    model = seeded_model(0, name)
    parameters = {
        **{f"prompt_encoder.{key}": value.numpy() for key, value in model.prompt_encoder.state_dict().items()},
        **{f"mask_decoder.{key}": value.numpy() for key, value in model.mask_decoder.state_dict().items()},
    }
    return NativeDecoder(parameters, norm_epsilon=architecture(name).norm_epsilon, threads=threads)


def _call(
    decoder: NativeDecoder,
    state: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    points: list[list[int]],
    labels: list[int],
    threads: int,
    high_res: tuple[NDArray[Any], NDArray[Any]] | None,
) -> Callable[[], Any]:
    given = np.array([points], np.float32), np.array([labels], np.int64)
    return lambda: decoder.decode(*state, *given, threads=threads, high_res=high_res)
