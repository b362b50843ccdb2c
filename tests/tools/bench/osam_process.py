"""The process of osam, and graphs of our network in the form that its class for SAM expects."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from support.redis_server import free_port
from tools.bench.disc import disc_model
from tools.bench.models import export_official_encoder, export_traced
from tools.bench.peer_process import ServerProcess
from torch import Tensor, nn
from torch.nn.functional import interpolate

from model_store.export.graphs.official import OfficialDecoder
from model_store.network.mask_decoder import stability_score
from model_store.network.model import PromptableModel

PYTHON = Path(sys.prefix) / "osam" / "bin" / "python"
"""Python of the environment that `make osam` writes."""


class SamDecoder(nn.Module):
    """The decoder in SAM's published form: it takes a mask, and enlarges the best mask to the image's size.

    Any `has_mask_input` that is not positive means "no mask". osam sends -1.
    """

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        self.points = OfficialDecoder(model)
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder
        self.side = model.architecture.image_size

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best mask's logits (1, 1, H, W), its score (1, 1) and its small logits (1, 1, 256, 256)."""
        given, none = self.prompt_encoder.dense(mask_input, 1), self.prompt_encoder.dense(None, 1)
        masks, _ = self.mask_decoder(
            image_embeddings,
            self.prompt_encoder.dense_positional_code(),
            self.points.tokens(point_coords, point_labels),
            torch.where(has_mask_input.reshape(1, 1, 1, 1) > 0, given, none),
        )
        scores = stability_score(masks)
        best = scores.argmax(dim=1)
        small = masks[:, best]
        frame = interpolate(small, (self.side, self.side), mode="bilinear", align_corners=False)
        size = orig_im_size.to(torch.int64)
        inner = torch.floor(orig_im_size * self.side / orig_im_size.max() + 0.5).to(torch.int64)
        frame = frame[..., : inner[0], : inner[1]]
        return interpolate(frame, (size[0], size[1]), mode="bilinear", align_corners=False), scores[:, best], small


def make_osam_graphs(folder: Path, image: NDArray[np.uint8]) -> tuple[Path, Path]:
    """Write the disc model's encoder and decoder in SAM's published form, and return the files."""
    plain = disc_model(image).deploy().eval()
    encoder, decoder = folder / "osam_encoder.onnx", folder / "osam_decoder.onnx"
    export_official_encoder(plain, encoder, name="x")
    example = (
        torch.zeros(1, 256, 64, 64), torch.zeros(1, 2, 2), torch.ones(1, 2), torch.zeros(1, 1, 256, 256),
        torch.zeros(1), torch.tensor([1200.0, 1600.0]),
    )  # fmt: skip
    names = ["image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"]
    axes = {"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}}
    export_traced(SamDecoder(plain), example, decoder, names, ["masks", "iou_predictions", "low_res_masks"], axes)
    return encoder, decoder


def osam_process(encoder: Path, decoder: Path, home: Path) -> ServerProcess:
    """Return osam's server as a context manager.

    Args:
        encoder: Path of its encoder graph.
        decoder: Path of its decoder graph.
        home: Home directory of the process, because osam keeps its files below it.
    """
    program, port = Path(__file__).parent / "osam_server.py", free_port()
    command = [
        str(PYTHON), str(program), "--encoder", str(encoder), "--decoder", str(decoder), "--port", str(port),
    ]  # fmt: skip
    return ServerProcess(command, port=port, health="/", environment={**os.environ, "HOME": str(home)})
