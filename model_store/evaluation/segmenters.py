"""Ways to ask a model: through torch, through an artifact's graphs, or through a running service.

Letters: P prompts on one photo, N clicks each, n masks of a prompt, S = 1024 side of the frame.
"""

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import ModelStoreError, UsageError
from model_store.evaluation.ranking.rule import order_of, scores_of
from model_store.training.data.annotations import PhotoRecord
from service.sam.prompts import ABSENT, BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, IGNORED, PADDING
from service.sam.transforms import FRAME_SIZE, MASK_SIZE, Size, input_size, preprocess

if TYPE_CHECKING:
    import httpx
    import torch

    from model_store.network.model import PromptableModel
    from service.manifest import Ranking

Floats = NDArray[np.float32]

_CHUNK = 16  # prompts in a call; 256 KiB of logits a mask


class ServiceFailed(ModelStoreError):
    """The service did not answer as it should; the message carries its answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """P prompts of one form, in the frame.

    Attributes:
        boxes: (P, 4), or None where the prompts have none.
        points: (P, N, 2).
        labels: (P, N) int64; IGNORED is allowed.
    """

    boxes: Floats | None
    points: Floats
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)

    def rows(self, rows: slice) -> "Asked":
        """Some of them."""
        boxes = None if self.boxes is None else self.boxes[rows]
        return Asked(boxes, self.points[rows], self.labels[rows])

    def with_click(self, points: Floats, labels: NDArray[np.int64]) -> "Asked":
        """The prompts with one more click each: (P, 2) and (P,)."""
        return replace(
            self,
            points=np.concatenate([self.points, points[:, None]], axis=1),
            labels=np.concatenate([self.labels, labels[:, None]], axis=1),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """n masks of each of P prompts.

    Attributes:
        mask_logits: (P, n, 256, 256).
        predicted_iou: (P, n), the IoU that the model predicts.
        stability: (P, n) stability scores, 0..1.
        score: (P, n), 0..1, what the model orders the masks of a prompt by.
    """

    mask_logits: Floats
    predicted_iou: Floats
    stability: Floats
    score: NDArray[np.floating]

    def first(self) -> "Answers":
        """The first mask of each prompt, n = 1."""
        return Answers(*(getattr(self, name)[:, :1] for name in self.__slots__))

    def by_score(self) -> "Answers":
        """The masks of each prompt in the order in which the service shows them."""
        rows, order = np.arange(len(self.score))[:, None], order_of(self.score)
        return Answers(*(getattr(self, name)[rows, order] for name in self.__slots__))


class Segmenter(Protocol):
    """Something that is measured."""

    name: str

    def embed(self, photo: PhotoRecord) -> Any:
        """A photo, ready for prompts."""
        ...

    def answer(self, embedded: Any, asked: Asked) -> Answers:
        """Output 0 of each prompt, n = 1."""
        ...

    def answer_click(self, embedded: Any, asked: Asked) -> tuple[Answers, Answers]:
        """Output 0 of prompts of one click each, and all four masks in the order in which the service shows them."""
        ...


class TorchSegmenter:
    """The plain modules. Photos are resized in floats, as EdgeSAM's evaluation does (docs/explanation/model.md 1.2).

    Args:
        model: Network in training form.
        device: Device that computes, ``cpu`` or ``cuda``.
        name: What it is called in tables.
        ranking: Rule that orders four masks. A checkpoint states none; the default is EdgeSAM's.
    """

    def __init__(
        self, model: "PromptableModel", *, device: str = "cpu", name: str = "torch", ranking: "Ranking | None" = None
    ) -> None:
        from service.manifest import Ranking  # noqa: PLC0415 - training asks no segmenter, and needs no pydantic

        self.name = name
        self._ranking = ranking or Ranking()
        # Folded: a third faster, and the same within 5e-6 (docs/explanation/model.md, section 2.5).
        self._model = model.deploy().to(device)

    def embed(self, photo: PhotoRecord) -> "torch.Tensor":
        import torch  # noqa: PLC0415 - a service is measured without torch

        from model_store.training.data.letterboxed import letterboxed  # noqa: PLC0415 - the same

        frame = letterboxed(photo, FRAME_SIZE).frame.unsqueeze(0)
        with torch.inference_mode():
            embedding: torch.Tensor = self._model.image_encoder(frame.to(self._device))
        return embedding

    def answer(self, embedded: "torch.Tensor", asked: Asked) -> Answers:
        return self.outputs(embedded, asked).first()

    def answer_click(self, embedded: "torch.Tensor", asked: Asked) -> tuple[Answers, Answers]:
        outputs = self.outputs(embedded, asked)
        return outputs.first(), outputs.by_score()

    def outputs(self, embedded: "torch.Tensor", asked: Asked) -> Answers:
        """All four outputs of each prompt, by index."""
        return _in_chunks(asked, lambda part: self._outputs(embedded, part))

    def _outputs(self, embedded: "torch.Tensor", asked: Asked) -> Answers:
        import torch  # noqa: PLC0415 - a service is measured without torch

        from model_store.network.mask_decoder import stability_score  # noqa: PLC0415 - the same

        points = None
        if asked.points.shape[1]:
            points = (torch.from_numpy(asked.points).to(self._device), torch.from_numpy(asked.labels).to(self._device))
        boxes = None if asked.boxes is None else torch.from_numpy(asked.boxes).to(self._device)
        with torch.inference_mode():
            sparse, dense = self._model.prompt_encoder(points, boxes)
            code = self._model.prompt_encoder.dense_positional_code()
            logits, iou = self._model.mask_decoder(embedded, code, sparse, dense)
            stability = stability_score(logits)
        return _scored(logits.cpu().numpy(), iou.cpu().numpy(), stability.cpu().numpy(), self._ranking)

    @property
    def _device(self) -> "torch.device":
        return next(self._model.parameters()).device


class GraphSegmenter:
    """The graphs of an artifact, fed with what the service feeds them.

    Args:
        directory: Folder of an artifact in the served layout.
        threads: Threads of a graph; 0 leaves it to ONNX Runtime.

    Raises:
        UsageError: The artifact has the official layout.
    """

    def __init__(self, directory: Path, *, threads: int = 0) -> None:
        from model_store.artifact import open_graph  # noqa: PLC0415 - torch is measured without ONNX Runtime
        from service.manifest import STATE_NAMES, load_manifest  # noqa: PLC0415 - see `TorchSegmenter`

        manifest = load_manifest(directory)
        if manifest.layout != "served":
            raise UsageError(
                f"{directory} has the {manifest.layout} layout, which the service does not run; "
                "export the checkpoint with --layout served"
            )
        self.name = f"graphs of {manifest.name}"
        self._ranking = manifest.ranking
        self._mean, self._std = manifest.mean, manifest.std
        self._state_names = STATE_NAMES
        self._sessions = {
            name: open_graph(directory / graph.file, threads=threads) for name, graph in manifest.graphs.items()
        }

    def embed(self, photo: PhotoRecord) -> dict[str, Any]:
        image = preprocess(photo.image(), self._mean, self._std)[None]
        (tokens,) = self._sessions["encoder"].run(["tokens"], {"image": image})
        no_mask = {"mask_logits": np.zeros((1, MASK_SIZE, MASK_SIZE), np.float32), "has_mask": np.zeros(1, np.bool_)}
        state = self._sessions["prepare"].run(list(self._state_names), {"tokens": tokens[0], **no_mask})
        return dict(zip(self._state_names, state, strict=True))

    def answer(self, embedded: dict[str, Any], asked: Asked) -> Answers:
        return self.outputs(embedded, asked).first()

    def answer_click(self, embedded: dict[str, Any], asked: Asked) -> tuple[Answers, Answers]:
        outputs = self.outputs(embedded, asked)
        return outputs.first(), outputs.by_score()

    def outputs(self, embedded: dict[str, Any], asked: Asked) -> Answers:
        """All four outputs of each prompt, by index; the graph computes them anyway."""
        return _in_chunks(asked, lambda part: self._outputs(embedded, part))

    def _outputs(self, embedded: dict[str, Any], asked: Asked) -> Answers:
        points, labels = _tokens(asked)
        feeds = {"points": points, "labels": labels, **embedded}
        names = ["mask_logits", "iou_predictions", "stability"]
        mask_logits, predicted_iou, stability = self._sessions["decoder"].run(names, feeds)
        return _scored(mask_logits, predicted_iou, stability, self._ranking)


class ServiceSegmenter:
    """A running service. It knows no ignored clicks: where there is nothing to correct, it is asked the same again."""

    def __init__(self, url: str, client: "httpx.Client") -> None:
        self.name = f"service at {url}"
        self._client = client

    def embed(self, photo: PhotoRecord) -> tuple[str, Size]:
        data = photo.path.read_bytes()
        answer = self._post("/embed", content=data, headers={"content-type": "application/octet-stream"})
        if (answer["height"], answer["width"]) != photo.size:
            raise ServiceFailed(f"{photo.path} has {photo.size} pixels, the service sees another size")
        return answer["image_hash"], photo.size

    def answer(self, embedded: tuple[str, Size], asked: Asked) -> Answers:
        return _in_chunks(asked, lambda part: self._answer(*embedded, part, 1))

    def answer_click(self, embedded: tuple[str, Size], asked: Asked) -> tuple[Answers, Answers]:
        four = _in_chunks(asked, lambda part: self._answer(*embedded, part, "auto"))
        return self.answer(embedded, asked), four

    def _answer(self, image_hash: str, size: Size, asked: Asked, multimask: Literal["auto", 1]) -> Answers:
        height, width = input_size(size)
        scale = np.array([size[1] / width, size[0] / height])
        limit = np.array([size[1], size[0]])
        prompts: list[dict[str, Any]] = []
        for row in range(len(asked)):
            prompt: dict[str, Any] = {}
            points = np.minimum(asked.points[row] * scale, limit)  # the last cell may begin behind the last pixel
            clicks = [
                {"x": float(x), "y": float(y), "label": int(label)}
                for (x, y), label in zip(points, asked.labels[row], strict=True)
                if label != IGNORED
            ]
            if clicks:
                prompt["points"] = clicks
            if asked.boxes is not None:
                prompt["box"] = (asked.boxes[row].reshape(2, 2) * scale).reshape(4).tolist()
            prompts.append(prompt)
        body = {"image_hash": image_hash, "prompts": prompts, "multimask": multimask, "format": "logits"}
        results = [result["masks"] for result in self._post("/segment", json=body)["results"]]

        def of_each(read: Any) -> Floats:
            return np.array([[read(mask) for mask in found] for found in results], np.float32)

        return Answers(
            of_each(lambda mask: np.frombuffer(base64.b64decode(mask["logits"]), "<f2").reshape(MASK_SIZE, MASK_SIZE)),
            of_each(lambda mask: mask["predicted_iou"]),
            of_each(lambda mask: mask["stability"]),
            of_each(lambda mask: mask["score"]),
        )

    def _post(self, path: str, **request: Any) -> dict[str, Any]:
        import httpx  # noqa: PLC0415 - everything else is measured without it

        try:
            response = self._client.post(path, **request)
        except httpx.HTTPError as error:
            raise ServiceFailed(f"{self.name} does not answer {path}: {error}") from error
        if response.is_error:
            raise ServiceFailed(f"{self.name} answers {path} with {response.status_code}: {response.text[:300]}")
        answer: dict[str, Any] = response.json()
        return answer


def _tokens(asked: Asked) -> tuple[Floats, NDArray[np.int64]]:
    """The decoder graph's table: clicks, then the corners of the box, or padding where there is none."""
    prompts = len(asked)
    if asked.boxes is None:
        points = np.concatenate([asked.points, np.zeros((prompts, 1, 2), np.float32)], axis=1)
        more = np.full((prompts, 1), PADDING)
    else:
        points = np.concatenate([asked.points, asked.boxes.reshape(prompts, 2, 2)], axis=1)
        more = np.tile([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], (prompts, 1))
    labels = np.concatenate([asked.labels, more], axis=1).astype(np.int64)
    assert not (labels == ABSENT).any()
    return points.astype(np.float32), labels


def _scored(mask_logits: Floats, predicted_iou: Floats, stability: Floats, ranking: "Ranking") -> Answers:
    return Answers(mask_logits, predicted_iou, stability, scores_of(ranking, stability, predicted_iou))


def _in_chunks(asked: Asked, answer: Any) -> Answers:
    parts = [answer(asked.rows(slice(start, start + _CHUNK))) for start in range(0, len(asked), _CHUNK)]
    return Answers(*(np.concatenate([getattr(part, name) for part in parts]) for name in Answers.__slots__))
