"""`verify --scores`: published answers beside those of an installed model, on an image from a file or from a server."""

import dataclasses
import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.file_server import FileServer, Reply
from support.made_once import made_once
from support.sam2_model import sam2_model
from support.sam2_weights import write_sam2_checkpoint
from support.sam_family_reference import family_image
from support.torch_threads import one_thread  # noqa: F401 - a fixture of all tests here
from typer.testing import CliRunner

from model_store.catalogue.published import PUBLISHED
from model_store.cli import app
from model_store.errors import ModelStoreError, UsageError
from model_store.fetching.fetch import FetchError
from model_store.network.predictor import TorchPredictor
from model_store.scores.answers import decoder_kind
from model_store.scores.image import download, scored_image
from model_store.scores.published import PUBLISHED_SCORES, PublishedScores, ScoredPrompt
from service.manifest import load_manifest

TRUCK = PUBLISHED_SCORES["edgetam"].image
PATH = TRUCK.url.removeprefix("https://huggingface.co/")


def call(*arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments], env={"NO_PROXY": "127.0.0.1"})
    assert "Traceback" not in result.output
    return result


def jpeg(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=95)
    return content.getvalue()


@pytest.fixture(scope="module")
def truck():
    """A file of the right size with another image, since the real one is not part of this repository."""
    image = Image.fromarray(family_image()).resize((TRUCK.width, TRUCK.height))
    return jpeg(np.asarray(image))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models directory after `fetch edgetam`."""
    return made_once(tmp_path_factory, "models-with-edgetam", lambda folder: fetch("edgetam", folder))


def fetch(name, folder):
    """Fetch a model from a server with a file of the published layout and seeded weights."""
    data = write_sam2_checkpoint(name, folder / "made.pt").read_bytes()
    (folder / "made.pt").unlink()
    with FileServer(m=Reply(data)) as server:
        result = call(
            "fetch", name, "--url", server.url("m"), "--sha256", hashlib.sha256(data).hexdigest(),
            "--models-dir", folder, "--weights", "float32", "--no-timing",
        )  # fmt: skip
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def torch_scores(truck):
    """The published prompts of EdgeTAM with the answers of the seeded network."""
    return answered_by_torch("edgetam", truck)


def answered_by_torch(name, data):
    """Return the published prompts of a model with the answers of its seeded network, to close tolerances."""
    predictor = TorchPredictor(sam2_model(name))
    embedded = predictor.embed(np.asarray(Image.open(io.BytesIO(data))))

    def answered(prompt: ScoredPrompt) -> ScoredPrompt:
        points = {} if prompt.point is None else {"points": [prompt.point], "labels": [1]}
        found = predictor.predict(embedded, box=prompt.box, num_multimask_outputs=prompt.masks, **points)
        order = np.argsort(-found.iou_predictions)
        corner = found.mask_logits[order[0], 0, :2]
        assert np.abs(corner).max() < 32, "not limited"
        return dataclasses.replace(
            prompt, scores=tuple(found.iou_predictions[order].tolist()), corner=tuple(corner.tolist())
        )

    prompts = tuple(answered(prompt) for prompt in PUBLISHED_SCORES[name].prompts)
    return PublishedScores(TRUCK, prompts, "the seeded network in PyTorch", score_tolerance=1e-3, logit_tolerance=0.05)


@pytest.mark.parametrize("name", PUBLISHED_SCORES)
def test_published_scores_belong_to_a_published_model(name):
    published = PUBLISHED_SCORES[name]

    assert name in PUBLISHED
    assert published.image.url.startswith("https://")
    assert published.image.url.endswith(published.image.file_name)
    for prompt in published.prompts:
        assert (prompt.point is None) != (prompt.box is None)
        assert len(prompt.scores) == prompt.masks
        assert list(prompt.scores) == sorted(prompt.scores, reverse=True)
        assert all(0 < score < 1 for score in prompt.scores)
    assert sum(prompt.masks + 2 * (prompt.corner is not None) for prompt in published.prompts) == 12


@pytest.mark.slow
def test_a_model_that_answers_as_stated_passes(models, truck, torch_scores, monkeypatch):
    monkeypatch.setitem(PUBLISHED_SCORES, "edgetam", torch_scores)
    with FileServer() as server:
        server.replies[PATH] = Reply(truck)
        result = call("verify", "edgetam", "--scores", "--models-dir", models, "--mirror", server.url(""))

    assert result.exit_code == 0, result.output
    assert [request.path for request in server.requests] == [PATH]
    assert "edgetam is complete and runs: 3 graphs" in result.stdout
    assert result.stdout.count("agrees") == 3 + 1 + 4 + 2 * 6
    assert "differs" not in result.stdout
    assert "published by the seeded network in PyTorch" in result.stdout
    assert "box (1240, 675, 1400, 750)" in result.stdout
    assert "repositories are under Apache-2.0" in result.stderr
    assert "was not made from the published checkpoint of edgetam" in result.stderr


@pytest.mark.large
def test_sam_2_1_answers_as_stated(truck, monkeypatch, tmp_path):
    fetch("sam2.1-tiny", tmp_path)
    monkeypatch.setitem(PUBLISHED_SCORES, "sam2.1-tiny", answered_by_torch("sam2.1-tiny", truck))
    (tmp_path / "truck.jpg").write_bytes(truck)

    result = call("verify", "sam2.1-tiny", "--scores", "--models-dir", tmp_path, "--image", tmp_path / "truck.jpg")

    assert result.exit_code == 0, result.output
    assert result.stdout.count("agrees") == 20


@pytest.mark.slow
def test_the_decoder_graph_answers_as_the_decoder_in_c(models, truck, torch_scores, monkeypatch, tmp_path):
    monkeypatch.setitem(PUBLISHED_SCORES, "edgetam", torch_scores)
    (tmp_path / "truck.jpg").write_bytes(truck)
    shutil.copytree(models / "edgetam", tmp_path / "graphs")
    manifest = json.loads((tmp_path / "graphs" / "manifest.json").read_text())
    manifest["decoder_parameters"] = None
    (tmp_path / "graphs" / "manifest.json").write_text(json.dumps(manifest))

    result = call("verify", "graphs", "--scores", "--models-dir", tmp_path, "--image", tmp_path / "truck.jpg")

    assert decoder_kind(load_manifest(models / "edgetam")) == "native"
    assert "decoder onnx" in result.stdout
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_other_answers_are_listed_and_fail(models, truck, torch_scores, monkeypatch, tmp_path):
    monkeypatch.setitem(PUBLISHED_SCORES, "edgetam", torch_scores)
    bgr = np.asarray(Image.open(io.BytesIO(truck)))[:, :, ::-1]
    (tmp_path / "bgr.jpg").write_bytes(jpeg(bgr))

    result = call("verify", "edgetam", "--scores", "--models-dir", models, "--image", tmp_path / "bgr.jpg")

    assert result.exit_code == 1
    differing = result.stdout.count("differs")
    assert differing > 10
    assert f"{differing} of 20 numbers differ from the published ones" in result.stderr


@pytest.mark.slow
def test_seeded_weights_do_not_have_the_published_scores(models, truck, tmp_path):
    (tmp_path / "truck.jpg").write_bytes(truck)

    result = call("verify", "edgetam", "--scores", "--models-dir", models, "--image", tmp_path / "truck.jpg")

    assert result.exit_code == 1
    assert "of 12 numbers differ" in result.stderr
    assert "0.9773" in result.stdout


def test_a_model_without_published_scores_says_so(tmp_path):
    result = call("verify", "edgesam-lite", "--scores", "--models-dir", tmp_path)

    assert result.exit_code == 2
    assert "no scores are published for edgesam-lite" in result.stderr
    assert "there are scores for edgetam, sam2.1-tiny" in result.stderr


def test_an_image_needs_scores(tmp_path):
    result = call("verify", "edgesam-lite", "--models-dir", tmp_path, "--image", "truck.jpg")

    assert result.exit_code == 2
    assert "--image needs --scores" in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is not truck.jpg"),
        (b"\xff\xd8\xff\xe0 no image", "is not truck.jpg"),
        (jpeg(np.zeros((1200, 1799, 3), np.uint8)), "it has 1799 x 1200 pixels, not 1800 x 1200"),
        (jpeg(np.zeros((1800, 1200, 3), np.uint8)), "it has 1200 x 1800 pixels, not 1800 x 1200"),
        (jpeg(np.zeros((1300, 1800, 3), np.uint8)), "is not truck.jpg"),
        (bytes(9_000_000), "has more than 8388608 bytes"),
    ],
    ids=["absent", "empty", "broken", "narrow", "turned", "large", "long"],
)
def test_another_image_is_refused(content, words, tmp_path):
    if content is not None:
        (tmp_path / "truck.jpg").write_bytes(content)

    with pytest.raises(ModelStoreError, match=words):
        scored_image(TRUCK, tmp_path / "truck.jpg")


@pytest.mark.slow
def test_an_image_that_cannot_be_downloaded_is_an_error_that_names_the_option(models):
    with FileServer() as server:
        result = call("verify", "edgetam", "--scores", "--models-dir", models, "--mirror", server.url(""))

    assert result.exit_code == 1
    assert "the server responded with 404. Give the image with --image FILE" in result.stderr


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(bytes(2000)), "more than 1000 bytes"),
        (Reply(bytes(2000), is_chunked=True), "more than 1000 bytes"),
        (Reply(bytes(900), trickle_s=0.01), "did not arrive in time"),
        (Reply(bytes(900), stall_after=10), "no response in time|did not arrive in time"),
        (Reply(head_trickle_s=0.05), "did not arrive in time"),
        (Reply(bytes(900), break_after=10), "could not fetch"),
        (Reply(redirect_to="http://example.com/truck.jpg"), "only https is allowed"),
        (Reply(status=500), "the server responded with 500"),
    ],
    ids=["long", "chunked", "slow", "stalled", "slow head", "broken", "redirected", "failing"],
)
def test_a_download_is_bounded_in_size_and_time(reply, words, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FileServer(truck=reply) as server, pytest.raises(FetchError, match=words):
        download(server.url("truck"), max_bytes=1000, limit_s=0.5)


def test_only_https_is_fetched():
    with pytest.raises(UsageError, match="only https is allowed"):
        download("http://example.com/truck.jpg")
