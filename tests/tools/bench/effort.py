"""Amount of measurement: full, quick, or each value once."""

from dataclasses import dataclass

from service.sam.transforms import Size


@dataclass(frozen=True, slots=True)
class Effort:
    """Numbers of rounds and calls, and durations, of a run."""

    rounds: int  # for calls that take tens of milliseconds
    calls: int  # measured calls per round
    encoder_rounds: int
    many_prompts: int
    many_rounds: int
    load_s: float  # per number of clients or rate
    load_repeats: int
    clients: tuple[int, ...]
    rates: tuple[int, ...]  # in per cent of the throughput
    load_images: int
    upload_s: float
    upload_repeats: int
    replica_images: int
    kept_images: int
    starts: int
    tier_calls: int
    embeds: int
    sizes: tuple[Size, Size, Size]  # small, medium, large

    @property
    def small(self) -> Size:
        """Size of a thumbnail."""
        return self.sizes[0]

    @property
    def medium(self) -> Size:
        """Size of an image on a web page."""
        return self.sizes[1]

    @property
    def large(self) -> Size:
        """Size of a camera's image."""
        return self.sizes[2]


PHOTOS = ((480, 640), (1200, 1600), (3000, 4000))

FULL = Effort(
    rounds=30, calls=2, encoder_rounds=6, many_prompts=32, many_rounds=5,
    load_s=6.0, load_repeats=2, clients=(1, 4, 16, 64), rates=(30, 50, 70, 90), load_images=16,
    upload_s=8.0, upload_repeats=3, replica_images=20, kept_images=20, starts=3, tier_calls=40, embeds=8,
    sizes=PHOTOS,
)  # fmt: skip
QUICK = Effort(
    rounds=10, calls=2, encoder_rounds=2, many_prompts=32, many_rounds=2,
    load_s=3.0, load_repeats=1, clients=(1, 16), rates=(50, 70), load_images=4,
    upload_s=4.0, upload_repeats=1, replica_images=5, kept_images=8, starts=1, tier_calls=15, embeds=3,
    sizes=PHOTOS,
)  # fmt: skip
TINY = Effort(
    rounds=1, calls=1, encoder_rounds=1, many_prompts=3, many_rounds=1,
    load_s=0.4, load_repeats=1, clients=(1, 16), rates=(70,), load_images=1,
    upload_s=0.6, upload_repeats=1, replica_images=1, kept_images=2, starts=1, tier_calls=2, embeds=1,
    sizes=((240, 320), (480, 640), (600, 800)),
)  # fmt: skip
