"""Nobody gets another's answer: random interleavings on two replicas while both tiers throw images out.

Every question has one right answer, byte for byte: what a service that serves nobody else answers. These are asked
first. Then users ask at random and all at once, of replicas whose memory holds fewer images than are in use and
whose Redis holds fewer than there are.
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
_MIB = 2**20
_SIZES = ((40, 60), (61, 43), (90, 90), (33, 120), (128, 96), (70, 55))
_STATE_MIB = 10
_HELD_IN_MEMORY = 2
_HELD_IN_REDIS = 5
# More than enough tries for an image that others push out again and again.
_TRIES = 20


def measure(scene: Scene, *, quick: bool) -> Outcome:
    """A thousand interleavings; a few in the quick form."""
    outcome, rounds = Outcome("Isolation"), 10 if quick else 1000
    isolation = scene.enter(Isolation({}))
    tally = isolation.run(rounds)
    in_memory, in_redis = isolation.evictions
    outcome.facts["interleavings, of six users each"] = str(rounds)
    outcome.facts["answers, and how many differ from those of a single user"] = f"{tally.answers}, {len(tally.wrong)}"
    outcome.facts["images evicted: from the memory of replicas, from Redis"] = f"{in_memory}, {in_redis}"
    outcome.facts["answers 404, after which the client embedded or prompted again"] = str(tally.embedded_again)
    outcome.promise(not tally.wrong, f"wrong answers to {tally.wrong[:3]}")
    outcome.promise(set(tally.statuses) <= {200, 404}, f"other answers: {tally.statuses}")
    outcome.promise(in_memory and in_redis and tally.embedded_again, "nothing was given up, so nothing was tried")
    return outcome


@dataclass(frozen=True, slots=True)
class Question:
    """A request whose answer does not depend on who else asks.

    Attributes:
        image: number of it.
        body: of /segment.
        asks_first: the question whose best mask this one refines.
    """

    image: int
    body: dict[str, Any]
    asks_first: "Question | None" = None


@dataclass(slots=True)
class Tally:
    """What happened."""

    answers: int = 0
    wrong: list[Question] = field(default_factory=list)
    embedded_again: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


class Isolation:
    """A context: one calm service, and two replicas that are to answer like it.

    Args:
        settings: of all three, such as the model to serve.
        seed: of images, questions and who asks what.
    """

    def __init__(self, settings: dict[str, str], *, seed: int = 1) -> None:
        self._settings = settings
        self._chance = random.Random(seed)
        self._images = [noise_file(size, seed * 1000 + number) for number, size in enumerate(_SIZES)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            redis = stack.enter_context(RedisServer())
            calm = stack.enter_context(ServiceProcess(self._settings))
            shared = {
                **self._settings,
                "EDGESAM_REDIS_URL": redis.url,
                "EDGESAM_REDIS_CONNECT_TIMEOUT_S": "5",
                "EDGESAM_REDIS_READ_TIMEOUT_S": "5",
                "EDGESAM_MEMORY_CACHE_BYTES": str((_HELD_IN_MEMORY * _STATE_MIB + 1) * _MIB),
            }
            replicas = [stack.enter_context(ServiceProcess(shared)) for _ in range(2)]
            self._calm = stack.enter_context(open_client(calm.url))
            self._replicas = [stack.enter_context(open_client(replica.url)) for replica in replicas]
            self._hashes = [embed(self._calm, image) for image in self._images]
            empty = int(redis.ask("INFO", "memory")["used_memory"])
            embed(self._replicas[0], self._images[0])
            image_bytes = int(redis.ask("INFO", "memory")["used_memory"]) - empty
            redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            redis.ask("CONFIG", "SET", "maxmemory", empty + _HELD_IN_REDIS * image_bytes + image_bytes // 2)
            self._redis = redis
            self._questions = self._all_questions()
            self._answers = {id(question): self._ask_calmly(question) for question in self._questions}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def evictions(self) -> tuple[int, int]:
        """Images and masks that the replicas' memories and Redis have thrown out so far."""
        return (
            sum(_metric(client, 'edgesam_cache_evictions_total{tier="memory"}') for client in self._replicas),
            int(self._redis.ask("INFO", "stats")["evicted_keys"]),
        )

    def run(self, rounds: int) -> Tally:
        """In each round every user asks one question of one replica, all at the same time."""
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
                Question(image, {"prompts": [{"points": [{"x": y % width, "y": 1, "label": 0}]}]}, asks_first=first),
            ]
        return questions

    def _ask_calmly(self, question: Question) -> bytes:
        statuses: Counter[int] = Counter()
        answer = self._ask(self._calm, question, statuses)
        assert set(statuses) == {200}, statuses
        return answer

    def _ask(self, client: httpx.Client, question: Question, statuses: Counter[int]) -> bytes:
        """The answer; an image or mask that was thrown out is made anew, as clients do."""
        for _ in range(_TRIES):
            body = {"image_hash": self._hashes[question.image], **question.body}
            if question.asks_first is not None:
                first = self._ask(client, question.asks_first, statuses)
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
