"""Targets of the measured values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A bound of a measured value.

    Args:
        what: Description of the value.
        bound: Bound of the value.
        is_least: Whether the bound is a lower bound.
        unit: Unit of the value.
        values: Names of values of sections. The worst measured one counts.
    """

    what: str
    bound: float
    is_least: bool
    unit: str
    values: tuple[str, ...]

    def judge(self, measured: Mapping[str, float]) -> dict[str, Any]:
        """Return the fields, `measured` and `is_reached`. The last two are None without a measurement."""
        found = [measured[name] for name in self.values if name in measured]
        worst = (min if self.is_least else max)(found) if found else None
        reached = None if worst is None else worst >= self.bound if self.is_least else worst <= self.bound
        return {**asdict(self), "measured": worst, "is_reached": reached}


TARGETS = (
    Target(
        "decoding one point: official decoder graph ÷ our service's decoder (1 thread and all, the worse)",
        3.0, True, "", ("graphs.speedup_one", "graphs.speedup_all"),
    ),
    Target(
        "official encoder graph ÷ ours, EdgeSAM, float32 (1 thread and all, the worse)",
        1.5, True, "", ("graphs.encoder_speedup_one", "graphs.encoder_speedup_all"),
    ),
    Target(
        "encoder graph as torch writes it ÷ ours, edgesam-lite, float32 (1 thread and all, the worse)",
        1.1, True, "", ("graphs.lite_encoder_speedup_one", "graphs.lite_encoder_speedup_all"),
    ),
    Target("difference of the logits to the official graph's", 1e-4, False, "", ("graphs.difference",)),
    Target(
        "`prepare` ÷ decoding one point (1 thread and all, the worse)",
        0.4, False, "", ("graphs.prepare_share_one", "graphs.prepare_share_all"),
    ),
    Target(
        "decoding one point with EdgeTAM, float16 maps ÷ with EdgeSAM (1 thread and all, the worse)",
        1.25, False, "", ("sam2.click_ratio_one", "sam2.click_ratio_all"),
    ),
    Target(
        "official encoder graph ÷ ours in bfloat16, EdgeSAM (1 thread and all, the worse)",
        3.0, True, "", ("openvino.edgesam.openvino_bfloat16_one", "openvino.edgesam.openvino_bfloat16_all"),
    ),
    Target("IoU of masks in bfloat16 with those in float32", 0.985, True, "", ("openvino.mask_iou",)),
    Target("`prepare` runs in clicks on an image in memory", 0.0, False, "", ("click.prepares",)),
    Target("a click of one client at 2 MP, run lengths, beyond the decoder call", 2.5, False, "ms",
           ("click.medium_over_ms",)),
    Target("the same at 12 MP, an object of a tenth of the image, in any format", 6.0, False, "ms",
           ("click.large_over_ms",)),
    Target("throughput at 16 clients ÷ bare decoder calls on all cores", 0.95, True, "", ("load.share_of_plain",)),
    Target("p99 ÷ p50 at 70 % of that throughput, open loop", 3.0, False, "", ("load.open_p99_share",)),
    Target("p50 of a click while another client uploads ÷ idle", 2.0, False, "", ("uploads.p50_share",)),
    Target("p99 of a click while another client uploads ÷ idle", 3.0, False, "", ("uploads.p99_share",)),
    Target(
        "p50 of a click while one or three others find all objects (the worse) ÷ idle",
        1.5, False, "", ("everything_clicks.one_share", "everything_clicks.three_share"),
    ),
    Target(
        "all objects by 16 x 16 points ÷ the same prompts in requests of 64", 0.6, False, "", ("everything.ratio",)
    ),
    Target("a Redis hit on another replica, added to p50", 8.0, False, "ms", ("replicas.added_ms",)),
    Target("rounding the tokens of an image to int8", 3.0, False, "ms", ("tiers.int8_round_ms",)),
    Target("reading int8 tokens as float16", 2.0, False, "ms", ("tiers.int8_read_ms",)),
    Target("`/embed` of a JPEG of 2 MP: everything but the encoder", 0.12, False, "", ("embed.medium.all_but_encode",)),
    Target("decoding and resizing of a JPEG of 12 MP", 50.0, False, "ms", ("embed.large.image_ms",)),
    Target("`/embed` of a JPEG of 12 MP: everything but the encoder", 80.0, False, "ms",
           ("embed.large.all_but_encode_ms",)),
    Target("resize to the encoder's input: Pillow ÷ ours (the worst size)", 3.0, True, "",
           ("embed.small.resize_ratio", "embed.medium.resize_ratio", "embed.large.resize_ratio")),
    Target("32 prompts in one request ÷ 32 requests", 0.85, False, "", ("many.ratio",)),
    Target("typical peer ÷ ours, p50 of a click at 12 MP, PNG", 5.0, True, "", ("peer.ratio_large",)),
    Target("a click that Chromium decodes on all cores, p50", 90.0, False, "ms", ("browser.click_all_ms",)),
)  # fmt: skip
