"""The mask decoder in training: the plain implementation compared with the fast one."""

from collections.abc import Callable
from time import process_time

import torch
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench
from torch import Tensor

from model_store.network.mask_decoder import MaskDecoder
from model_store.training.objectives.fast_decoder import decode_tokens

GRIDS = (16, 32, 64)
"""Sides of the image tokens; windows of 256, 512 and 1024 pixels."""
_IMAGES, _PROMPTS, _TOKENS = 1, 4, 3


def measure(bench: Workbench) -> Section:
    """Measure forward and backward of the prompts of one image, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_row(grid, bench.effort.encoder_rounds) for grid in GRIDS]
    finally:
        torch.set_num_threads(threads)
    values = {}
    for grid, plain, fast in rows:
        values[f"training.plain_{grid}_ms"], values[f"training.fast_{grid}_ms"] = plain, fast
    return Section(
        "The mask decoder in training",
        f"""
            Forward and backward of {_PROMPTS} prompts on one image with torch in float32 on one thread: processor time
            of one prompt, the least of {bench.effort.encoder_rounds} rounds. Both give the same masks.
            """,
        [
            Table(
                "",
                ["image tokens", "`MaskDecoder`, CPU-ms", "`fast_decoder`, CPU-ms", "ratio"],
                [[f"{grid} × {grid}", plain, fast, plain / fast] for grid, plain, fast in rows],
            )
        ],
        values,
    )


def _row(grid: int, rounds: int) -> tuple[int, float, float]:
    generator = torch.Generator().manual_seed(grid)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    decoder = MaskDecoder()
    image = drawn(_IMAGES, 256, grid, grid).requires_grad_()
    code, no_mask = drawn(1, 256, grid, grid), drawn(1, 256)
    sparse = drawn(_IMAGES * _PROMPTS, _TOKENS, 256)

    def plain() -> Tensor:
        dense = no_mask.reshape(1, 256, 1, 1).expand(len(sparse), 256, grid, grid)
        logits, _ = decoder(image, code, sparse, dense)
        return logits

    def fast() -> Tensor:
        tokens, codes = (values.flatten(2).transpose(1, 2) for values in (image, code))
        return decode_tokens(decoder, tokens, codes, sparse, _PROMPTS, no_mask=no_mask)[0]

    best = {decode: min(_cpu_ms(decode) for _ in range(rounds + 1)) / len(sparse) for decode in (plain, fast)}
    return grid, best[plain], best[fast]


def _cpu_ms(decode: Callable[[], Tensor]) -> float:
    started = process_time()
    decode().square().mean().backward()
    return (process_time() - started) * 1000
