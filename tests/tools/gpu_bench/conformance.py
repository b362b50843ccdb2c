"""Differences of torch to the outputs of the official EdgeSAM, and of the service to its graphs on a CPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from support.official_reference import COMMITTED, Reference, reference_image
from support.reference_weights import state_dict
from tools.gpu_bench.torch_backend import Precision, TorchBackend

from model_store.checkpoint import model_from_state_dict
from model_store.network.frames import frame
from model_store.network.model import PromptableModel, build_model

_STATE = ["keys", "keys0", "queries0"]
_PADDING, _BOX_TOP_LEFT, _BOX_BOTTOM_RIGHT = -1, 2, 3


def against_fixtures(
    device: torch.device, precisions: Sequence[Precision], folder: Path | None, *, cases: int | None = None
) -> dict[str, float]:
    """Compare torch on a device with the outputs of the official EdgeSAM for its weights of seed 0.

    Args:
        device: Device that computes.
        precisions: Precisions of products and convolutions; float32 comes first.
        folder: Folder with the fixtures; None for those in the repository.
        cases: Largest number of prompts.

    Returns:
        By precision: largest difference of the embedding, and over all prompts the largest difference of logits and of
        the predicted IoU, the mean and the least IoU of masks, and the number of prompts. On a CPU, the first precision
        alone has the difference of the embedding.
    """
    reference, model = Reference(folder or COMMITTED), _reference_model()
    image = frame(reference_image()).numpy()
    found: dict[str, float] = {}
    start = None
    for precision in precisions:
        backend = TorchBackend.of(model, device, precision)
        if start is None or device.type != "cpu":  # a CPU takes a minute for the encoder in float16
            embedding = backend.encode(image)[0].T.reshape(1, 256, 64, 64)
            expected = reference.encoder["embedding_slice"]
            found[f"{precision}.embedding_difference"] = float(np.abs(embedding[0, :, ::8, ::8] - expected).max())
        if start is None:  # every precision decodes the official embedding
            official = reference.embedding(embedding).numpy()
            start = np.ascontiguousarray(official.reshape(256, 4096).T)
        decoded = _decoded(backend, reference.decoder, start, cases)
        found |= {f"{precision}.{name}": value for name, value in decoded.items()}
    return found


def _decoded(
    backend: TorchBackend, expected: Mapping[str, NDArray[Any]], tokens: NDArray[np.float32], cases: int | None
) -> dict[str, float]:
    state = backend.prepare(tokens)
    logit, iou, shares = [], [], []
    for case in _cases(expected)[:cases]:
        logits, predicted = backend.decode(state, *_prompts(expected, case))
        logit.append(np.abs(logits[:, :, ::8, ::8] - expected[f"{case}/mask_logits_slice"]).max())
        iou.append(np.abs(predicted - expected[f"{case}/iou_pred"]).max())
        bits = np.unpackbits(expected[f"{case}/mask_bits"], axis=-1).astype(bool)
        shares += mask_ious(logits > 0, bits.reshape(logits.shape))
    return {
        "logits_difference": float(max(logit)),
        "predicted_iou_difference": float(max(iou)),
        "mask_iou_mean": float(np.mean(shares)),
        "mask_iou_least": float(min(shares)),
        "prompts": len(logit),
    }


def against_graphs(served: Any, folder: Path) -> dict[str, float]:
    """Compare the service's encoder and decoder with plain ONNX Runtime on the CPU, for one image and one point.

    Args:
        served: Encoder and decoder of the service.
        folder: Folder of the same model's graphs.
    """
    encoder, prepare, decoder = (
        onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("encoder", "prepare", "decoder")
    )
    image = frame(reference_image()).numpy()
    (wanted,) = encoder.run(["tokens"], {"image": image})
    start = wanted[0].astype(np.float16)
    no_mask = {"mask_logits": np.zeros((1, 256, 256), np.float32), "has_mask": np.array([False])}
    arrays = prepare.run(_STATE, {"tokens": start.astype(np.float32), **no_mask})
    points = np.array([[[500.0, 375.0], [0.0, 0.0]]], np.float32)
    prompt = {"points": points, "labels": np.array([[1, _PADDING]], np.int64)}
    (wanted_logits,) = decoder.run(["mask_logits"], {**prompt, **dict(zip(_STATE, arrays, strict=True))})
    logits, _ = served.decode(served.prepare(start), **prompt)
    return {
        "tokens_difference": float(np.abs(served.encode(image) - wanted).max()),
        "logits_difference": float(np.abs(logits - wanted_logits).max()),
        "mask_iou_least": float(min(mask_ious(logits > 0, wanted_logits > 0))),
    }


def mask_ious(masks: NDArray[np.bool_], expected: NDArray[np.bool_]) -> list[float]:
    """Return the IoU of each pair of masks (P, M, H, W); 1 where both are empty."""
    both = (masks & expected).sum((-2, -1)).ravel()
    either = (masks | expected).sum((-2, -1)).ravel()
    return [float(part / whole) if whole else 1.0 for part, whole in zip(both, either, strict=True)]


def _reference_model() -> PromptableModel:
    shapes = {key: tuple(value.shape) for key, value in build_model().state_dict().items()}
    return model_from_state_dict({key: torch.from_numpy(array) for key, array in state_dict(shapes, seed=0).items()})


def _cases(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the prompts of points and boxes alone, whose labels are those of points."""
    names = sorted({name.partition("/")[0] for name in arrays if "/" in name})
    return [
        name
        for name in names
        if f"{name}/points" in arrays
        and not {f"{name}/uses_mask_input", f"{name}/box_labels"} & set(arrays)
        and np.isin(arrays[f"{name}/labels"], (0, 1)).all()
    ]


def _prompts(arrays: Mapping[str, NDArray[Any]], case: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return points (P, N, 2) and labels (P, N) of the decoder: the points, then a box or a padding point."""
    points, labels = arrays[f"{case}/points"], arrays[f"{case}/labels"]
    boxes = arrays.get(f"{case}/boxes")
    if boxes is None:
        more, kinds = np.zeros((len(points), 1, 2)), [_PADDING]
    else:
        more, kinds = boxes.reshape(len(points), 2, 2), [_BOX_TOP_LEFT, _BOX_BOTTOM_RIGHT]
    tiled = np.tile(kinds, (len(points), 1))
    return np.concatenate([points, more], 1).astype(np.float32), np.concatenate([labels, tiled], 1).astype(np.int64)
