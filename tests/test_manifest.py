"""Manifests of every version are read; each has the lowest version that can say what it says."""

import json

import pytest

from service.manifest import MANIFEST_NAME, ManifestError, load_manifest
from service.mask_rules import AutoMasks, EverythingDefaults, Ranking
from service.sam.everything.options import EverythingOptions

FILE = {"file": "graph.onnx", "sha256": "ab" * 32, "size_bytes": 1}
GRANULARITY = {"proposals": 9, "source_sha256": None}
VERSION_2 = {
    "format_version": 2,
    "name": "model",
    "architecture": "EdgeSAM (RepViT-M1, two-way mask decoder)",
    "layout": "served",
    "image_size": 1024,
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "mask_threshold": 0.0,
    "upsample_mode": "bicubic",
    "graphs": {"encoder": FILE, "prepare": FILE, "decoder": FILE},
    "decoder_parameters": None,
    "opset": 17,
    "precision": "float32",
    "weights": "float16",
    "source_sha256": None,
    "licence": "none",
    "trained": False,
    "training_data": "none",
    "measured": {},
    "notes": "",
    "parity": {},
    "rounding": {},
    "tools": {},
}
VERSION_3 = {**VERSION_2, "format_version": 3, "granularity": GRANULARITY}
# Each of them is a reason for version 4 by itself.
NEWER = [
    {"encoder": "EfficientNet-Lite2"},
    {"upsample_mode": None},
    {"ranking": {"bias": [0.1, 0, 0, 0]}},
    {"ranking": {"stability": 0.5}},
    {"ranking": {"predicted_iou": 0.5}},
]
# And each of these for version 5.
NEWEST = [
    {"image_size": 512},
    {"norm_epsilon": 1e-6},
    {"auto_masks": {"ambiguous": [1, 2, 3]}},
    {"ranking": {"agreement": 0.0}},
    {"auto_masks": {"other": [1, 2, 3]}},
    {"summary": "A small model for CPUs."},
    {"card": "https://example.org/models/small"},
]
# And each of these for version 6.
OF_SAM2 = [
    {"resize": "stretch"},
    {"mask_decoder": "sam2"},
    {"mask_decoder": "sam2", "auto_masks": {"fallback": [1, 2, 3]}},
]
# And each of these for version 7.
OF_EVERYTHING = [
    {"everything": {}},
    {"everything": {"pred_iou_thresh": 0.5}},
    {"everything": {"points_per_side": 16, "outputs": [0, 1, 2, 3], "quality": "stability"}},
]


@pytest.fixture
def read(tmp_path):
    """Read a manifest with these members from its folder."""

    def read_(members):
        (tmp_path / MANIFEST_NAME).write_text(json.dumps(members))
        return load_manifest(tmp_path)

    return read_


@pytest.mark.parametrize("members", [VERSION_2, VERSION_3], ids=["2", "3"])
def test_an_older_manifest_is_of_repvit_and_ranks_by_stability(read, members):
    manifest = read(members)

    assert manifest.encoder == "RepViT-M1"
    assert manifest.ranking == Ranking(bias=(0, 0, 0, 0), stability=1, predicted_iou=0)


@pytest.mark.parametrize("members", [VERSION_2, VERSION_3], ids=["2", "3"])
def test_an_older_manifest_is_written_without_newer_members(read, members):
    written = json.loads(read(members).model_dump_json(exclude_defaults=True))

    assert written == members


@pytest.mark.parametrize("granularity", [None, GRANULARITY], ids=["plain", "proposing"])
@pytest.mark.parametrize("newer", NEWER, ids=str)
def test_a_newer_member_needs_version_4_and_comes_back_as_written(read, newer, granularity):
    members = {**VERSION_2, **newer, **({} if granularity is None else {"granularity": granularity})}

    manifest = read({**members, "format_version": 4})

    assert json.loads(manifest.model_dump_json(exclude_defaults=True)) == {**members, "format_version": 4}
    for version in (2, 3):
        with pytest.raises(ManifestError, match=f"make it version 4, and it says {version}"):
            read({**members, "format_version": version})


@pytest.mark.parametrize("newest", NEWEST, ids=str)
@pytest.mark.parametrize("older", [{}, NEWER[0], {"granularity": GRANULARITY}], ids=["2", "4", "3"])
def test_a_newest_member_needs_version_5_and_comes_back_as_written(read, older, newest):
    members = {**VERSION_2, **older, **newest}

    manifest = read({**members, "format_version": 5})

    assert json.loads(manifest.model_dump_json(exclude_defaults=True)) == {**members, "format_version": 5}
    for version in (2, 3, 4):
        with pytest.raises(ManifestError, match=f"make it version 5, and it says {version}"):
            read({**members, "format_version": version})


@pytest.mark.parametrize("member", OF_SAM2, ids=str)
@pytest.mark.parametrize("older", [{}, NEWER[0], NEWEST[1]], ids=["2", "4", "5"])
def test_a_member_of_sam_2_needs_version_6_and_comes_back_as_written(read, older, member):
    members = {**VERSION_2, **older, **member}

    manifest = read({**members, "format_version": 6})

    assert json.loads(manifest.model_dump_json(exclude_defaults=True)) == {**members, "format_version": 6}
    for version in (2, 3, 4, 5):
        with pytest.raises(ManifestError, match=f"make it version 6, and it says {version}"):
            read({**members, "format_version": version})


@pytest.mark.parametrize("member", OF_EVERYTHING, ids=str)
@pytest.mark.parametrize("older", [{}, NEWER[0], NEWEST[1], OF_SAM2[1]], ids=["2", "4", "5", "6"])
def test_defaults_of_everything_mode_need_version_7_and_come_back_as_written(read, older, member):
    members = {**VERSION_2, **older, **member}

    manifest = read({**members, "format_version": 7})

    assert json.loads(manifest.model_dump_json(exclude_unset=True)) == {**members, "format_version": 7}
    for version in (2, 3, 4, 5, 6):
        with pytest.raises(ManifestError, match=f"make it version 7, and it says {version}"):
            read({**members, "format_version": version})


def test_without_defaults_of_its_own_a_model_has_those_of_sam_s_generator(read):
    by_stability, by_predicted_iou = (
        read({**VERSION_2, "ranking": {"predicted_iou": weight}, "format_version": 4 if weight else 2})
        for weight in (0.0, 1.0)
    )

    assert by_predicted_iou.everything_defaults == EverythingDefaults(
        points_per_side=32,
        pred_iou_thresh=0.88,
        stability_score_thresh=0.95,
        stability_score_offset=1.0,
        box_nms_thresh=0.7,
        min_mask_region_area=0,
        outputs=(1, 2, 3),
        quality="predicted_iou",
    )
    assert by_stability.everything_defaults.quality == "stability"


def test_other_defaults_of_everything_mode_keep_the_fingerprint(read):
    before = read(VERSION_2)

    after = before.with_everything(EverythingDefaults(points_per_side=16))

    assert (before.format_version, after.format_version) == (2, 7)
    assert after.everything_defaults.points_per_side == 16
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize(
    "broken",
    [
        {"points_per_side": 0},
        {"points_per_side": 65},
        {"pred_iou_thresh": -0.1},
        {"stability_score_thresh": 1.1},
        {"stability_score_offset": 11},
        {"box_nms_thresh": "many"},
        {"min_mask_region_area": -1},
        {"outputs": []},
        {"outputs": [4]},
        {"outputs": [2, 1]},
        {"outputs": [1, 1]},
        {"quality": "score"},
        {"fast": True},
    ],
    ids=str,
)
def test_broken_defaults_of_everything_mode_are_refused_by_name(read, broken):
    with pytest.raises(ManifestError, match=rf"everything\.{next(iter(broken))}"):
        read({**VERSION_2, "format_version": 7, "everything": broken})


def test_the_outputs_of_a_manifest_of_sam_2_have_a_fallback_and_those_of_others_have_none(read):
    fallback = {"format_version": 6, "mask_decoder": "sam2", "auto_masks": {"fallback": [1, 2, 3]}}

    assert read({**VERSION_2, **fallback}).mask_choice.fallback == (1, 2, 3)
    assert read(VERSION_2).mask_choice.fallback == ()
    assert (read({**VERSION_2, **fallback}).has_high_res, read(VERSION_2).has_high_res) == (True, False)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"mask_decoder": "sam2", "granularity": GRANULARITY}, "granularity module needs mask_decoder sam"),
        ({"mask_decoder": "sam2", "layout": "official"}, "layout official needs mask_decoder sam"),
        ({"auto_masks": {"fallback": [1, 2]}}, "fallback need mask_decoder sam2"),
        ({"mask_decoder": "sam2", "auto_masks": {"fallback": [1], "other": [1, 2]}}, "fallback needs other"),
        ({"mask_decoder": "sam2", "auto_masks": {"fallback": [1, 1]}}, "names an output twice"),
        ({"mask_decoder": "sam3"}, "mask_decoder: "),
        ({"resize": "crop"}, "resize: "),
    ],
    ids=str,
)
def test_members_that_do_not_fit_together_are_refused(read, members, reason):
    with pytest.raises(ManifestError, match=reason):
        read({**VERSION_2, **members, "format_version": 6})


def test_resize_and_mask_decoder_change_the_fingerprint_and_the_fallback_does_not(read):
    plain, resized, decoder, fallback = (
        read({**VERSION_2, **member, "format_version": 6 if member else 2}).fingerprint for member in ({}, *OF_SAM2)
    )

    assert len({plain, resized, decoder}) == 3
    assert fallback == decoder


@pytest.mark.parametrize("says", [4, 5, 6])
@pytest.mark.parametrize(("members", "lowest"), [(VERSION_2, 2), (VERSION_3, 3)], ids=["2", "3"])
def test_a_manifest_that_an_older_version_can_say_is_not_of_a_newer_one(read, members, lowest, says):
    with pytest.raises(ManifestError, match=f"make it version {lowest}, and it says {says}"):
        read({**members, "format_version": says})


def test_a_version_that_is_not_known_here_is_refused(read):
    with pytest.raises(ManifestError, match=r"format_version: .*2, 3, 4, 5, 6 or 7"):
        read({**VERSION_2, "format_version": 8})


@pytest.mark.parametrize("members", [VERSION_2, VERSION_3], ids=["2", "3"])
def test_an_older_manifest_is_of_edgesam_s_epsilon_and_masks(read, members):
    manifest = read(members)

    assert (manifest.image_size, manifest.norm_epsilon) == (1024, 1e-5)
    assert manifest.auto_masks == AutoMasks(ambiguous=(0, 1, 2, 3), other=(0,))


@pytest.mark.parametrize(
    "broken",
    [
        {"image_size": 768},
        {"norm_epsilon": 0},
        {"norm_epsilon": 0.1},
        {"card": "javascript:alert(1)"},
        {"card": 'https://example.org/" onclick='},
        {"summary": "long " * 100},
    ],
    ids=str,
)
def test_a_broken_member_of_version_5_is_refused_by_name(read, broken):
    with pytest.raises(ManifestError, match=rf"manifest\.json: {next(iter(broken))}"):
        read({**VERSION_2, "format_version": 5, **broken})


@pytest.mark.parametrize("outputs", [[], [0, 0], [4], [-1], [0, 1, 2, 3, 0]], ids=str)
@pytest.mark.parametrize("member", ["ambiguous", "other"])
def test_outputs_are_named_once_and_lie_in_the_range_0_to_3(read, member, outputs):
    with pytest.raises(ManifestError, match=rf"manifest\.json: auto_masks\.{member}"):
        read({**VERSION_2, "format_version": 5, "auto_masks": {member: outputs}})


def test_another_rule_keeps_all_other_members(read):
    small = {"image_size": 512, "norm_epsilon": 1e-6, "auto_masks": {"other": [1, 2]}, "summary": "Small."}
    manifest = read({**VERSION_2, **small, "format_version": 5})

    ranked = manifest.with_ranking(Ranking(stability=0.5))

    assert (ranked.format_version, ranked.ranking) == (5, Ranking(stability=0.5))
    assert ranked.with_ranking(manifest.ranking) == manifest
    assert read(VERSION_2).with_ranking(Ranking(stability=0.5)).format_version == 4


@pytest.mark.parametrize("ranking", [{"bias": [0.1, 0, 0]}, {"stability": 1e9}, {"margin": 1}], ids=str)
def test_a_broken_rule_is_refused_by_the_name_of_its_member(read, ranking):
    with pytest.raises(ManifestError, match=rf"manifest\.json: ranking\.{next(iter(ranking))}"):
        read({**VERSION_2, "format_version": 4, "ranking": ranking})


@pytest.mark.parametrize(
    ("members", "fingerprint"),
    [
        (VERSION_2, "e1b7dd3cc1faf621"),
        (VERSION_3, "ef16188091e74d74"),
        ({**VERSION_2, "upsample_mode": "bilinear"}, "097cc5715027db36"),
        (
            {**VERSION_2, "encoder": "EfficientNet-Lite2", "upsample_mode": None, "format_version": 4},
            "1200afa5c4c44070",
        ),
    ],
    ids=["2", "3", "bilinear", "4"],
)
def test_the_fingerprints_of_older_manifests_stay_as_they_were(read, members, fingerprint):
    assert read(members).fingerprint == fingerprint, "or every cached embedding is lost by an upgrade"


@pytest.mark.parametrize("members", [VERSION_2, VERSION_3], ids=["2", "3"])
def test_another_rule_keeps_the_embeddings_that_are_cached(read, members):
    calibrated = {**members, "format_version": 4, "ranking": {"bias": [0.1, 0, 0, 0]}}

    assert read(calibrated).fingerprint == read(members).fingerprint


def test_options_of_everything_mode_are_those_of_the_request_and_else_of_the_model():
    defaults = EverythingDefaults(points_per_side=16, pred_iou_thresh=0.5, quality="stability", outputs=(0, 1))

    options = defaults.options({"pred_iou_thresh": 0.0, "max_masks": 7, "fast": True}, max_points_per_side=8)

    assert options == EverythingOptions(points_per_side=8, pred_iou_thresh=0.0, max_masks=7, fast=True)
    assert defaults.options({}, max_points_per_side=64) == EverythingOptions(points_per_side=16, pred_iou_thresh=0.5)
