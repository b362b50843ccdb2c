"""Checkpoints that other authors publish: addresses, sizes, hashes, licences and published quality, as data.

No file is part of this repository. Sources of every number: docs/explanation/model.md, section 10.
"""

from collections.abc import Mapping
from typing import Final

from model_store.catalogue.published_model import (
    COCO_AP,
    COCO_BOX_MIOU,
    Licence,
    PublishedModel,
    Quality,
    apache,
)
from model_store.catalogue.published_sam2 import SAM2_MODELS

S_LAB = Licence(
    short_title="S-Lab 1.0",
    title="S-Lab License 1.0 (non-commercial)",
    summary=(
        "Copyright 2022 S-Lab. You may use, change and pass on the model for non-commercial purposes, as long as the "
        "copyright notice, the conditions and the disclaimer stay with it and the names of the authors are not used to "
        "promote what you make. Commercial use needs a permission from the authors. There is no warranty. The authors "
        "put the whole project under these terms; whether they meant the weights too was asked in public and not "
        "answered, so treat the weights as covered. This is a description, not the licence and not legal advice."
    ),
    url="https://github.com/chongzhou96/EdgeSAM/blob/master/LICENSE",
    commercial_use=False,
)


_SAM_CARD = "https://github.com/facebookresearch/segment-anything"
_MOBILE_SAM_CARD = "https://github.com/ChaoningZhang/MobileSAM"
_REPVIT_CARD = "https://github.com/THU-MIG/RepViT/tree/main/sam"
_TINY_SAM_CARD = "https://github.com/xinghaochen/TinySAM"
_EFFICIENTVIT_CARD = "https://github.com/mit-han-lab/efficientvit/tree/master/applications/efficientvit_sam"
_EDGE_SAM_CARD = "https://github.com/chongzhou96/EdgeSAM"

_META = apache("https://github.com/facebookresearch/segment-anything/blob/main/LICENSE")
_EFFICIENTVIT_LICENCE = apache("https://github.com/mit-han-lab/efficientvit/blob/master/LICENSE")

_LFS_HUGGING_FACE = "Git LFS pointer on the authors' page at Hugging Face"
_COPY_OF_SAM = "copies by others at Hugging Face (mashb1t/misc, xingren23/comfyflow-models); Meta publishes no SHA-256"

_TINY_SAM_README = "README of TinySAM"
_REPVIT_README = "README of RepViT-SAM"
_EFFICIENTVIT_README = "README of EfficientViT-SAM"
_EDGE_SAM_PAPER = "EdgeSAM paper (arXiv 2312.06660)"

_SA_1B = "SA-1B (stated by its authors)"
_SA_1B_DISTILLED = "SA-1B, encoder distilled from SAM ViT-H (stated by its authors)"


def _edge_sam(
    name: str, file_name: str, sha256: str, purpose: str, figures: tuple[Quality, ...], share: str
) -> PublishedModel:
    return PublishedModel(
        name=name,
        architecture="edgesam",
        file_name=file_name,
        urls=(
            f"https://huggingface.co/chongzhou/EdgeSAM/resolve/main/{file_name}",
            f"https://huggingface.co/spaces/chongzhou/EdgeSAM/resolve/main/weights/{file_name}",
        ),
        size_bytes=38_807_540,
        approximate_bytes=38_807_540,
        sha256=sha256,
        sha256_source=_LFS_HUGGING_FACE,
        sha256_origin="authors",
        licence=S_LAB,
        purpose=purpose,
        quality=figures,
        training_data=f"{share} of SA-1B, distilled from SAM ViT-H (stated by its authors)",
        card=_EDGE_SAM_CARD,
    )


def _sam(kind: str, file_id: str, size_bytes: int, sha256: str, ap: float, purpose: str) -> PublishedModel:
    file_name = f"sam_vit_{kind}_{file_id}.pth"
    return PublishedModel(
        name=f"sam-vit-{kind}",
        architecture=f"sam-vit-{kind}",
        file_name=file_name,
        urls=(f"https://dl.fbaipublicfiles.com/segment_anything/{file_name}",),
        size_bytes=size_bytes,
        approximate_bytes=size_bytes,
        sha256=sha256,
        sha256_source=_COPY_OF_SAM,
        sha256_origin="copies",
        licence=_META,
        purpose=purpose,
        quality=(Quality(COCO_AP, ap, _TINY_SAM_README),),
        training_data=_SA_1B,
        card=_SAM_CARD,
    )


def _efficientvit(kind: str, megabytes: int, sha256: str, ap: float, purpose: str, *more: Quality) -> PublishedModel:
    file_name = f"efficientvit_sam_{kind}.pt"
    return PublishedModel(
        name=f"efficientvit-sam-{kind}",
        architecture=f"efficientvit-sam-{kind}",
        file_name=file_name,
        urls=(f"https://huggingface.co/mit-han-lab/efficientvit-sam/resolve/main/{file_name}",),
        size_bytes=None,
        approximate_bytes=megabytes * 1_000_000,
        sha256=sha256,
        sha256_source=_LFS_HUGGING_FACE,
        sha256_origin="authors",
        licence=_EFFICIENTVIT_LICENCE,
        purpose=purpose,
        quality=(Quality(COCO_AP, ap, _EFFICIENTVIT_README), *more),
        training_data="SA-1B, after distillation of the encoder from SAM ViT-H (stated by its authors)",
        card=_EFFICIENTVIT_CARD,
    )


PUBLISHED: Final[Mapping[str, PublishedModel]] = {
    model.name: model
    for model in (
        *SAM2_MODELS,
        _efficientvit(
            "l0", 139, "c4f994b01a16d48bcf2fbbb089448cfbf58fae5811edfa8113c953b8b8cc64b8", 45.7,
            "Fast on CPUs: less computing than MobileSAM, and better published masks.",
        ),
        _efficientvit(
            "l1", 191, "fa151df2b9b96896accd505470755cdd293a4c50cdabac95478f3fbd86d9152b", 46.2,
            "Somewhat better than L0, for 1.4 times its computing.",
        ),
        _efficientvit(
            "l2", 246, "d4bfd842224cbb99de09acc3325e81ac5b7e8725c8fbdab152305e5d934bfe4a", 46.6,
            "As good as SAM ViT-H by its authors' figures, for twice the computing of L0.",
        ),
        _efficientvit(
            "xl0", 468, "9bc2f87bd23d6e6d1f7b5beff910f98835c7c333fac73e695bac0bec685968f8", 47.5,
            "Fine masks at the full image size, for GPUs: five times the computing of L0.",
        ),
        _efficientvit(
            "xl1", 814, "10f42277679427c1183dcff19758e536aa86bcc4304e4b387ff48865784be05c", 47.8,
            "Best published masks of this list, for GPUs: nine times the computing of L0.",
            Quality(COCO_BOX_MIOU, 79.9, _EFFICIENTVIT_README),
        ),
        PublishedModel(
            name="mobile-sam",
            architecture="mobile-sam",
            file_name="mobile_sam.pt",
            urls=("https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",),
            size_bytes=40_728_226,
            approximate_bytes=40_728_226,
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            sha256_source="a copy by others at Hugging Face (xingren23/comfyflow-models)",
            sha256_origin="copies",
            licence=apache("https://github.com/ChaoningZhang/MobileSAM/blob/master/LICENSE"),
            purpose="Smallest download with commercial use, for CPUs; many labelling tools know it.",
            quality=(
                Quality(COCO_AP, 41.0, _TINY_SAM_README),
                Quality(COCO_AP, 42.7, _REPVIT_README),
                Quality(COCO_AP, 39.4, _EDGE_SAM_PAPER),
                Quality(COCO_BOX_MIOU, 74.4, _EDGE_SAM_PAPER),
            ),
            training_data="1 % of SA-1B, encoder distilled from SAM ViT-H (stated by its authors)",
            card=_MOBILE_SAM_CARD,
        ),
        PublishedModel(
            name="tiny-sam",
            architecture="tiny-sam",
            file_name="tinysam_42.3.pth",
            urls=("https://github.com/xinghaochen/TinySAM/releases/download/3.0/tinysam_42.3.pth",),
            size_bytes=None,
            approximate_bytes=41_000_000,  # of its architecture; the length is not published
            sha256=None,
            sha256_source="its authors publish none",
            sha256_origin="none",
            licence=apache("https://github.com/xinghaochen/TinySAM/blob/main/License.txt"),
            purpose="MobileSAM's network with a longer distillation; three masks for every prompt.",
            quality=(Quality(COCO_AP, 42.3, _TINY_SAM_README),),
            training_data=_SA_1B_DISTILLED,
            card=_TINY_SAM_CARD,
        ),
        PublishedModel(
            name="repvit-sam",
            architecture="repvit-sam",
            file_name="repvit_sam.pt",
            urls=("https://github.com/THU-MIG/RepViT/releases/download/v1.0/repvit_sam.pt",),
            size_bytes=None,
            approximate_bytes=110_000_000,
            sha256="1fd2867cf669e6d89b1c91d0eb883d83ef4bcc590143dd2ca35e2705b21a4f2f",
            sha256_source="the author's Space at Hugging Face (jameslahm/repvit-sam), not the release itself",
            sha256_origin="authors",
            licence=apache("https://github.com/THU-MIG/RepViT/blob/main/LICENSE"),
            purpose="Made of convolutions alone, for phones and Apple computers.",
            quality=(Quality(COCO_AP, 44.4, _REPVIT_README),),
            training_data=_SA_1B_DISTILLED,
            card=_REPVIT_CARD,
        ),
        _sam(
            "b", "01ec64", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 43.4,
            "The original SAM in its smallest size, as a reference; fourteen times the computing of L0.",
        ),
        _sam(
            "l", "0b3195", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 46.2,
            "The original SAM in its middle size, for GPUs.",
        ),
        _sam(
            "h", "4b8939", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 46.6,
            "The original SAM in its largest size, from which the small models were distilled; for GPUs.",
        ),
        _edge_sam(
            "edge-sam", "edge_sam.pth", "439b086a20ab6fba90c12cba32e0001ba3aa726da5791ff8738acdd440330991",
            "Fast on CPUs and phones, for non-commercial use.",
            (Quality(COCO_AP, 42.2, _EDGE_SAM_PAPER), Quality(COCO_BOX_MIOU, 76.7, _EDGE_SAM_PAPER)),
            "1 %",
        ),
        _edge_sam(
            "edge-sam-3x", "edge_sam_3x.pth", "5a3e3261da9e2f4c8154410885689ae57d09cbf4cf5d0c848b9d80b6df336ece",
            "As edge-sam and trained on three times the images, for non-commercial use.",
            (Quality(COCO_AP, 42.7, _EDGE_SAM_PAPER),),
            "3 %",
        ),
    )
}  # fmt: skip


def published_with_hash(sha256: str | None) -> PublishedModel | None:
    """Return the published model whose checkpoint has this SHA-256; None if there is none."""
    if sha256 is None:  # TinySAM's entry has none either
        return None
    return next((model for model in PUBLISHED.values() if model.sha256 == sha256), None)


def known_licence(text: str) -> Licence | None:
    """Return the licence of this catalogue that a manifest's licence names; None if there is none.

    Args:
        text: Licence as the manifest states it: a text that begins with a title, or a short title alone.
    """
    licences = (model.licence for model in PUBLISHED.values())
    return next((one for one in licences if text.startswith(one.title) or text.strip() == one.short_title), None)
