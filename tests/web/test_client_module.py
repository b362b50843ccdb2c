"""The JavaScript client module in Node: `TESTS` with cases made here."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco
from support.browser import needed_program
from support.noise_images import noise_file
from support.redis_server import RedisServer
from support.service_process import ServiceProcess

FOLDER = Path(__file__).parent
TESTS = [FOLDER / f"{name}.test.mjs" for name in ("edgesam", "everything", "node", "repetition")]
TIMEOUT_S = 120


def mask_cases():
    """Masks of every kind with their run lengths and their pixels row by row, as text."""
    random = np.random.default_rng(5)
    masks = [random.random((17, 23)) < share for share in (0.02, 0.5, 0.98)]
    masks += [np.zeros((5, 9), bool), np.ones((9, 5), bool), np.eye(12, dtype=bool)]
    ring = np.zeros((64, 48), bool)
    ring[8:56, 6:40] = True
    ring[20:40, 12:30] = False
    ring[28:30, 18:24] = True
    masks.append(ring)
    wide = np.zeros((700, 900), bool)
    wide[40:660, 100:850] = True
    masks.append(wide)
    cases = []
    for mask in masks:
        rle = coco.encode(np.asfortranarray(mask, np.uint8))
        pixels = "".join(map(str, mask.astype(int).ravel()))
        cases.append({"rle": {"size": rle["size"], "counts": rle["counts"].decode()}, "pixels": pixels})
    return cases


def hash_cases():
    """Texts around the sizes of blocks, cut into pieces of several sizes."""
    texts = ["a" * length for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000)] + ["abc" * 100]
    return [
        {"text": text, "pieces": pieces, "digest": hashlib.sha256(text.encode()).hexdigest()}
        for text in texts
        for pieces in (1, 7, 64, 1000)
    ]


@pytest.fixture
def without_redis_url():
    """A service that has lost its Redis."""
    with RedisServer() as redis, ServiceProcess({"EDGESAM_REDIS_URL": redis.url}) as service:
        redis.kill()
        yield f"{service.url}/"


def test_the_client_module_in_node(bundled_url, two_models_url, without_redis_url, tmp_path, next_seed):
    node = needed_program("node", "nodejs")
    image = tmp_path / "image.png"
    image.write_bytes(noise_file((90, 120), next_seed))
    cases = tmp_path / "cases.json"
    made = {"image": str(image), "masks": mask_cases(), "hashes": hash_cases()}
    urls = {"url": bundled_url, "twoModelsUrl": two_models_url, "withoutRedisUrl": without_redis_url}
    cases.write_text(json.dumps({**urls, "cases": made}))

    ran = subprocess.run(
        [node, "--test", *map(str, TESTS)],
        env={**os.environ, "EDGESAM_TEST_CASES": str(cases)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
