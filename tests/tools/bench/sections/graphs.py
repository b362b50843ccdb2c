"""Calls without the service: official graphs and our graphs on plain ONNX Runtime, and the service's own calls."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tools.bench.disc import disc_centre
from tools.bench.models import make_lite_encoders, session
from tools.bench.samples import COLUMNS, Samples, interleaved
from tools.bench.section import Section, Table
from tools.bench.workbench import Workbench

from service.sam.frame import Frame
from service.sam.prompts import Prompt, decoder_inputs
from service.sam.transforms import FRAME_SIZE

OFFICIAL, OFFICIAL_SPINS = "official decoder graph", "official decoder graph, threads that spin"
GRAPH, SERVED = "our decoder graph, ONNX Runtime", "our service's decoder"
PREPARE_GRAPH, PREPARE = "our prepare graph, ONNX Runtime", "our service's prepare"
OFFICIAL_ENCODER, ENCODER = "EdgeSAM, official encoder graph", "EdgeSAM, our service's encoder"
PLAIN_LITE, LITE = "edgesam-lite, graph as torch writes it", "edgesam-lite, our encoder graph"
Calls = dict[tuple[str, int], Callable[[], Any]]


def measure(bench: Workbench) -> Section:
    """Measure one point on an image, with one thread and with all. All contenders have the same image and point."""
    clicks, encodes = _decoder_calls(bench), _encoder_calls(bench)
    expected = clicks[OFFICIAL, bench.cpus]()[1][0]
    largest = float(np.abs(expected).max())
    difference = {name: float(np.abs(expected - _logits(clicks[name, bench.cpus]())).max()) for name in (GRAPH, SERVED)}
    decoders = interleaved(clicks, bench.effort.rounds, bench.effort.calls)
    encoders = interleaved(encodes, bench.effort.encoder_rounds, 1, warms=False)
    columns = ["call", "threads", *COLUMNS, "official ÷ this"]
    values = {"graphs.difference": max(difference.values())}
    for threads in bench.thread_counts:
        place = "one" if threads == 1 else "all"
        official = min(decoders[name, threads].p50 for name in (OFFICIAL, OFFICIAL_SPINS))
        for key, name in (("graph", GRAPH), ("served", SERVED), ("prepare", PREPARE)):
            values[f"graphs.{key}_{place}_ms"] = decoders[name, threads].p50
        values[f"graphs.official_{place}_ms"] = official
        values[f"graphs.speedup_{place}"] = official / decoders[SERVED, threads].p50
        values[f"graphs.encoder_{place}_ms"] = encoders[ENCODER, threads].p50
        for key, ours, plain in (("encoder", ENCODER, OFFICIAL_ENCODER), ("lite_encoder", LITE, PLAIN_LITE)):
            values[f"graphs.{key}_speedup_{place}"] = encoders[plain, threads].p50 / encoders[ours, threads].p50
        values[f"graphs.prepare_share_{place}"] = decoders[PREPARE, threads].p50 / decoders[SERVED, threads].p50
    return Section(
        "Graphs without the service",
        f"""
            One positive point, all four masks. `prepare` runs once per image and process and has no official
            counterpart. Sessions have the options of the service. ONNX Runtime's default lets idle threads spin for
            some 40 ms, which speeds up consecutive calls and takes processor time from everything else. The target
            compares with the faster of the two official rows.

            Largest difference to the logits of the official graph, whose largest value is {largest:.1f}: our graph
            {difference[GRAPH]:.1e}, our service's decoder {difference[SERVED]:.1e}.

            Encoders compute in float32. Both graphs of an encoder have the same weights; those of edgesam-lite are
            random. The official graph of EdgeSAM, and that of edgesam-lite as torch writes it, trace the network
            without our forms for export (explanation/encoder-speed.md).
            """,
        [
            Table("Click", columns, _rows(decoders, OFFICIAL, without=(PREPARE_GRAPH, PREPARE))),
            Table("Image", columns, _encoder_rows(encoders)),
        ],
        values,
    )


def _decoder_calls(bench: Workbench) -> Calls:
    tokens = bench.embedding.tokens.astype(np.float32)
    point = disc_centre(bench.effort.medium)
    prompt = Prompt(points=np.array([point]), labels=np.array([1]))
    points, labels = decoder_inputs([prompt], Frame(bench.effort.medium))
    official_feeds = {
        "image_embeddings": np.ascontiguousarray(tokens.T).reshape(1, 256, 64, 64),
        "point_coords": points,
        "point_labels": labels.astype(np.float32),
    }
    prepare_feeds = {
        "tokens": tokens,
        "mask_logits": np.zeros((1, 256, 256), np.float32),
        "has_mask": np.array([False]),
    }
    calls: Calls = {}
    for threads in bench.thread_counts:
        official, spins = (
            session(bench.models.official_decoder, threads=threads, provider=bench.provider, spins=spins)
            for spins in (False, True)
        )
        prepare = session(bench.models.served / "prepare.onnx", threads=threads, provider=bench.provider)
        decoder = session(bench.models.served / "decoder.onnx", threads=threads, provider=bench.provider)
        state = dict(
            zip((output.name for output in prepare.get_outputs()), prepare.run(None, prepare_feeds), strict=True)
        )
        available = {"points": points, "labels": labels, **state}
        feeds = {argument.name: available[argument.name] for argument in decoder.get_inputs()}
        clicks = bench.clicks(threads)
        calls[OFFICIAL, threads] = lambda run=official.run: run(None, official_feeds)
        calls[OFFICIAL_SPINS, threads] = lambda run=spins.run: run(None, official_feeds)
        calls[GRAPH, threads] = lambda run=decoder.run, feeds=feeds: run(["mask_logits"], feeds)
        calls[SERVED, threads] = lambda clicks=clicks: clicks.decode([point])
        calls[PREPARE_GRAPH, threads] = lambda run=prepare.run: run(None, prepare_feeds)
        calls[PREPARE, threads] = clicks.prepare
    return calls


def _encoder_calls(bench: Workbench) -> Calls:
    assert bench.frame.shape == (1, 3, FRAME_SIZE, FRAME_SIZE)
    feeds = {"image": bench.frame}
    plain, lite = make_lite_encoders(bench.folder)
    calls: Calls = {}
    for threads in bench.thread_counts:
        official = session(bench.models.official_encoder, threads=threads, provider=bench.provider)
        calls[OFFICIAL_ENCODER, threads] = lambda run=official.run: run(None, feeds)
        calls[ENCODER, threads] = partial(bench.runtime(threads).encode, bench.frame)
        for name, path in ((PLAIN_LITE, plain), (LITE, lite)):
            graph = session(path, threads=threads, provider=bench.provider)
            calls[name, threads] = lambda run=graph.run: run(None, feeds)
    return calls


def _encoder_rows(samples: dict[tuple[str, int], Samples]) -> list[list]:
    references = {ENCODER: OFFICIAL_ENCODER, LITE: PLAIN_LITE}
    return [
        [name, threads, *own.cells(), samples[references.get(name, name), threads].p50 / own.p50]
        for (name, threads), own in samples.items()
    ]


def _rows(samples: dict[tuple[str, int], Samples], reference: str, *, without: tuple[str, ...] = ()) -> list[list]:
    rows = []
    for (name, threads), own in samples.items():
        ratio = None if name in without else samples[reference, threads].p50 / own.p50
        rows.append([name, threads, *own.cells(), ratio])
    return rows


def _logits(answer: Any) -> np.ndarray:
    """Return the logits (4, 256, 256) of the result of a session or of the service's decoder."""
    return answer[0][0] if isinstance(answer, list) else answer.mask_logits[0]
