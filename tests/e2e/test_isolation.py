"""Simultaneous users of one process get the answers that each gets alone; see also `faults/isolation.py`."""

import random
from concurrent.futures import ThreadPoolExecutor

from support.noise_images import noise_file
from support.service_client import embed, open_client, point

SIZES = [(40, 60), (61, 41), (200, 300), (3, 90), (128, 128), (333, 222), (50, 500), (77, 78)]
PROMPTS = ["point", "box", "both", "refined"]


def test_simultaneous_users_of_one_image_get_the_masks_of_a_single_user(service_url):
    """Prompts of several users share decoder calls. Products of other sizes round differently in the last bits."""
    with open_client(service_url) as client:
        bodies = requests(client, seed=100)
        alone = {name: client.post("/segment", json=asked).json() for name, asked in bodies.items()}

    def one_user(seed):
        some = random.Random(seed).sample(list(bodies), k=12)
        with open_client(service_url) as own:
            return {name: own.post("/segment", json=bodies[name]).json() for name in some}

    with ThreadPoolExecutor(len(SIZES)) as threads:
        together = list(threads.map(one_user, range(len(SIZES))))

    for answers in together:
        for name, answer in answers.items():
            assert differences(answer, alone[name]) == [], name


def differences(answer, expected):
    """Return the differences beyond rounding: sizes, numbers, areas."""
    found = [key for key in ("image_hash", "width", "height") if answer[key] != expected[key]]
    (masks,), (expected_masks,) = ([result["masks"] for result in one["results"]] for one in (answer, expected))
    for mask, other in zip(masks, expected_masks, strict=True):
        found += [key for key in ("stability", "predicted_iou") if abs(mask[key] - other[key]) > 1e-3]
        if abs(mask["area"] - other["area"]) > 0.001 * answer["width"] * answer["height"]:
            found.append("area")
    return found


def requests(client, seed):
    """Return requests by (image, kind of prompt)."""
    hashes = [embed(client, noise_file(size, seed)) for size in SIZES]
    return {(i, kind): body(client, hashes[i], size, kind) for i, size in enumerate(SIZES) for kind in PROMPTS}


def test_simultaneous_uploads_give_the_embeddings_of_single_uploads(service_url):
    images = [noise_file((70 + i, 90 - i), seed=101) for i in range(8)]

    def upload(data):
        with open_client(service_url) as client:
            return [client.post("/embed", content=data).json() for _ in range(2)]

    with ThreadPoolExecutor(len(images)) as threads:
        answers = list(threads.map(upload, images))

    assert [(first["height"], first["width"]) for first, _ in answers] == [(70 + i, 90 - i) for i in range(8)]
    assert all(second["cached"] == "memory" for _, second in answers)
    assert len({first["image_hash"] for first, _ in answers}) == len(images)


def body(client, image_hash, size, kind):
    """Return a request of one user."""
    height, width = size
    box = {"box": [width * 0.2, height * 0.2, width * 0.9, height * 0.8]}
    prompt = {"point": point(width / 3, height / 3), "box": box, "both": {**box, **point(width / 2, height / 2)}}
    if kind == "refined":
        asked = {"image_hash": image_hash, "prompts": [box], "multimask": 1, "format": "none"}
        mask = client.post("/segment", json=asked).json()["results"][0]["masks"][0]
        return {"image_hash": image_hash, "prompts": [{**point(width / 2, height / 2), "mask_id": mask["mask_id"]}]}
    return {"image_hash": image_hash, "prompts": [prompt[kind]], "multimask": 4}
