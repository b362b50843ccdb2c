"""Isolation of requests: random interleavings on two replicas while both cache tiers evict images.

Every question has one right answer, byte for byte: the response of a reference service with a single user. Then
several users send questions at random and at the same time. The memory of the replicas holds fewer images than are in
use, and Redis holds fewer than there are.
"""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any, Self

import httpx
from support.noise_images import noise_file
from support.redis_server import RedisServer
from support.service_client import embed, open_client
from support.service_process import ServiceProcess
from tools.faults.outcome import Outcome
from tools.faults.scene import Scene

USERS = 6
WAIT_S = 120.0
_SIZES = ((40, 60), (61, 43), (90, 90), (33, 120), (128, 96), (70, 55))
_IMAGES_IN_MEMORY = 2
_IMAGES_IN_REDIS = 5
# More attempts than needed for an image that others evict again and again.
_TRIES = 20


def measure(scene: Scene, *, quick: bool) -> Outcome:
    """Run a thousand interleavings, or twenty in the quick form: with ten, it could happen that nothing was evicted."""
    outcome, rounds = Outcome("Isolation"), 20 if quick else 1000
    settings = {"EDGESAM_MODEL_DIR": str(scene.model)}
    isolation = scene.enter(Isolation(settings, memory_bytes=scene.memory_bytes(_IMAGES_IN_MEMORY)))
    tally = isolation.run(rounds)
    in_memory, in_redis = isolation.evictions
    outcome.facts["interleavings, of six users each"] = str(rounds)
    outcome.facts["answers, and how many differ from those of a single user"] = f"{tally.answers}, {len(tally.wrong)}"
    outcome.facts["images evicted: from the memory of replicas, from Redis"] = f"{in_memory}, {in_redis}"
    outcome.facts["answers 404, after which the client embedded or prompted again"] = str(tally.embedded_again)
    outcome.promise(not tally.wrong, f"wrong answers to {tally.wrong[:3]}")
    outcome.promise(set(tally.statuses) <= {200, 404}, f"other answers: {tally.statuses}")
    outcome.promise(in_memory and in_redis and tally.embedded_again, "nothing was evicted, so nothing was tested")
    return outcome


@dataclass(frozen=True, slots=True)
class Question:
    """A request whose response does not depend on other requests.

    Attributes:
        image: Number of the image.
        body: Body of /segment, without the image hash.
        refines: Question whose best mask this one refines.
    """

    image: int
    body: dict[str, Any]
    refines: "Question | None" = None


@dataclass(slots=True)
class Tally:
    """Counts of a run.

    Attributes:
        answers: Number of answered questions.
        wrong: Questions with a wrong answer.
        embedded_again: Number of 404 responses.
        statuses: Number of responses by status.
    """

    answers: int = 0
    wrong: list[Question] = field(default_factory=list)
    embedded_again: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


class Isolation:
    """A reference service, and two replicas that have to give the same answers; a context manager.

    Args:
        settings: Settings of all three, such as the model to serve.
        memory_bytes: Size of the memory tier of both replicas.
        seed: Seed of the images, the questions and their order.
    """

    def __init__(self, settings: dict[str, str], *, memory_bytes: int, seed: int = 1) -> None:
        self._settings = settings
        self._memory_bytes = memory_bytes
        self._chance = random.Random(seed)
        self._images = [noise_file(size, seed * 1000 + number) for number, size in enumerate(_SIZES)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            redis = stack.enter_context(RedisServer())
            reference = stack.enter_context(ServiceProcess(self._settings))
            shared = {
                **self._settings,
                "EDGESAM_REDIS_URL": redis.url,
                "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "5",
                "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
                "EDGESAM_MEMORY_CACHE_BYTES": str(self._memory_bytes),
            }
            replicas = [stack.enter_context(ServiceProcess(shared)) for _ in range(2)]
            self._reference = stack.enter_context(open_client(reference.url))
            self._replicas = [stack.enter_context(open_client(replica.url)) for replica in replicas]
            self._hashes = [embed(self._reference, image) for image in self._images]
            empty = int(redis.ask("INFO", "memory")["used_memory"])
            embed(self._replicas[0], self._images[0])
            # Of the value alone: the buffer in which Redis received it is freed later.
            (key,) = redis.ask("KEYS", f"edgesam:2:*{self._hashes[0]}")
            image_bytes = int(redis.ask("MEMORY", "USAGE", key))
            redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            redis.ask("CONFIG", "SET", "maxmemory", empty + _IMAGES_IN_REDIS * image_bytes + image_bytes // 2)
            self._redis = redis
            self._questions = self._all_questions()
            self._answers = {id(question): self._ask_reference(question) for question in self._questions}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def evictions(self) -> tuple[int, int]:
        """Number of values that the in-memory caches and Redis have evicted."""
        return (
            sum(_metric(client, 'edgesam_cache_evictions_total{tier="memory"}') for client in self._replicas),
            int(self._redis.ask("INFO", "stats")["evicted_keys"]),
        )

    def run(self, rounds: int) -> Tally:
        """Run rounds in which every user sends one question to a replica, all at the same time."""
        tally = Tally()
        start = Barrier(USERS, timeout=WAIT_S)

        def ask(question: Question, replica: httpx.Client) -> tuple[Question, bytes, Counter[int]]:
            start.wait()
            statuses: Counter[int] = Counter()
            return question, self._ask(replica, question, statuses), statuses

        with ThreadPoolExecutor(USERS) as users:
            for _ in range(rounds):
                asked = self._chance.choices(self._questions, k=USERS)
                replicas = self._chance.choices(self._replicas, k=USERS)
                for question, answer, statuses in users.map(ask, asked, replicas, timeout=WAIT_S):
                    tally.answers += 1
                    tally.statuses += statuses
                    tally.embedded_again += statuses[404]
                    if answer != self._answers[id(question)]:
                        tally.wrong.append(question)
        return tally

    def _all_questions(self) -> list[Question]:
        questions: list[Question] = []
        for image, (height, width) in enumerate(_SIZES):
            x, y = self._chance.uniform(5, width - 5), self._chance.uniform(5, height - 5)
            point = {"points": [{"x": x, "y": y}]}
            box = {"box": [x / 2, y / 2, (x + width) / 2, (y + height) / 2]}
            first = Question(image, {"prompts": [point]})
            questions += [
                first,
                Question(image, {"prompts": [box], "format": "polygon"}),
                Question(image, {"prompts": [point, box, {**point, **box}], "format": "png", "multimask": 3}),
                Question(image, {"prompts": [{"points": [{"x": y % width, "y": 1, "label": 0}]}]}, refines=first),
            ]
        return questions

    def _ask_reference(self, question: Question) -> bytes:
        statuses: Counter[int] = Counter()
        answer = self._ask(self._reference, question, statuses)
        assert set(statuses) == {200}, statuses
        return answer

    def _ask(self, client: httpx.Client, question: Question, statuses: Counter[int]) -> bytes:
        """Return the answer to a question. After a 404, embed or refine again, as clients do."""
        for _ in range(_TRIES):
            body = {"image_hash": self._hashes[question.image], **question.body}
            if question.refines is not None:
                first = self._ask(client, question.refines, statuses)
                mask_id = httpx.Response(200, content=first).json()["results"][0]["masks"][0]["mask_id"]
                body["prompts"] = [{**prompt, "mask_id": mask_id} for prompt in question.body["prompts"]]
            response = client.post("/segment", json=body)
            statuses[response.status_code] += 1
            if response.status_code == 200:
                return response.content
            if response.status_code != 404:
                break
            if response.json()["code"] == "embedding-not-found":
                embed(client, self._images[question.image])
        raise AssertionError(f"{question} had no answer after {dict(statuses)}: {response.text}")


def _metric(client: httpx.Client, sample: str) -> int:
    lines = client.get("/metrics").text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(sample))
