"""The published checkpoints of SAM 2.1 and EdgeTAM, as data. EdgeTAM is the model to begin with.

The authors of EdgeTAM compare its masks of single images with those of SAM 2.1, without stating the size of that one.
The figures of a size of its own are those of videos.
"""

from typing import Final

from model_store.catalogue.published_model import (
    SA_23_FIVE_CLICKS,
    SA_23_ONE_CLICK,
    SA_V_VIDEO,
    PublishedModel,
    Quality,
    apache,
)

_EDGETAM_README = "README of EdgeTAM"
_SAM2_README = "README of SAM 2"
_UNKNOWN_SIZE = "README of EdgeTAM, for a SAM 2.1 whose size it does not state"
_WEIGHTS_INCLUDED = "Their README says that the checkpoints are under it as well as the code."

_EDGETAM_LICENCE = apache(
    "https://github.com/facebookresearch/EdgeTAM/blob/main/LICENSE", about_weights=_WEIGHTS_INCLUDED
)
_SAM2_LICENCE = apache("https://github.com/facebookresearch/sam2/blob/main/LICENSE", about_weights=_WEIGHTS_INCLUDED)

_COPIES_OF_SAM2 = (
    "copies by others at Hugging Face (camenduru/sam2-1-hiera and others), which agree; not compared with Meta's file"
)

_EDGETAM: Final = PublishedModel(
    name="edgetam",
    architecture="edgetam",
    file_name="edgetam.pt",
    urls=("https://github.com/facebookresearch/EdgeTAM/raw/main/checkpoints/edgetam.pt",),
    size_bytes=None,
    approximate_bytes=56_100_000,
    sha256="ed2d4850b8792c239689b043c47046ec239b6e808a3d9b6ae676c803fd8780df",
    sha256_source=(
        "Meta's Space at Hugging Face (facebook/EdgeTAM); in the repository the file is the Git blob "
        "abd54d22bbd22ba3e53cf59a307e59e0f3701be6"
    ),
    sha256_origin="authors",
    licence=_EDGETAM_LICENCE,
    purpose="First choice: as fast as EdgeSAM on CPUs, for commercial use, and as good as SAM after a few clicks.",
    quality=(
        Quality(SA_23_ONE_CLICK, 55.5, _EDGETAM_README),
        Quality(SA_23_FIVE_CLICKS, 81.7, _EDGETAM_README),
        Quality(SA_V_VIDEO, 71.7, _EDGETAM_README),
    ),
    training_data="a mix of images and videos, without those internal to Meta (stated by its authors)",
    card="https://github.com/facebookresearch/EdgeTAM",
)


def _sam2(
    size: str, size_bytes: int, sha256: str, video: float, purpose: str, *, copied: bool = True
) -> PublishedModel:
    file_name = f"sam2.1_hiera_{size.replace('-', '_')}.pt"
    return PublishedModel(
        name=f"sam2.1-{size}",
        architecture=f"sam2.1-{size}",
        file_name=file_name,
        urls=(
            f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/{file_name}",
            f"https://huggingface.co/facebook/sam2.1-hiera-{size}/resolve/main/{file_name}",
        ),
        size_bytes=size_bytes,
        approximate_bytes=size_bytes,
        sha256=sha256,
        sha256_source=_COPIES_OF_SAM2 if copied else "Meta's page at Hugging Face (facebook/sam2.1-hiera-tiny)",
        sha256_origin="copies" if copied else "authors",
        licence=_SAM2_LICENCE,
        purpose=purpose,
        quality=(
            Quality(SA_23_ONE_CLICK, 61.9, _UNKNOWN_SIZE),
            Quality(SA_23_FIVE_CLICKS, 83.5, _UNKNOWN_SIZE),
            Quality(SA_V_VIDEO, video, _SAM2_README),
        ),
        training_data="a mix of images and videos, some of them internal to Meta (stated by the authors of EdgeTAM)",
        card="https://github.com/facebookresearch/sam2",
    )


SAM2_MODELS: Final = (
    _EDGETAM,
    _sam2(
        "tiny", 156_008_466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69", 76.5,
        "Quality choice on CPUs: the smallest SAM 2.1, for 8 times the computing of EdgeTAM.",
        copied=False,
    ),
    _sam2(
        "small", 184_416_285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38", 76.6,
        "Between tiny and base+, for 10 times the computing of EdgeTAM.",
    ),
    _sam2(
        "base-plus", 323_606_802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5", 78.2,
        "Quality choice with many cores or a GPU, for 18 times the computing of EdgeTAM.",
    ),
    _sam2(
        "large", 898_083_611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318", 79.5,
        "The largest SAM 2.1, for GPUs: 52 times the computing of EdgeTAM.",
    ),
)  # fmt: skip
