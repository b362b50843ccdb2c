"""A Locust load test: people who open a photo and click on it.

EDGESAM_URL=http://127.0.0.1:8000 locust --headless --users 8 --spawn-rate 4 --run-time 30s

Run it against your own service only. Each user embeds a photo once and then clicks, with a pause of up to a second.
`EDGESAM_PHOTO` names another photo. Failures with status 503 are clicks that the service refused because it was busy.
"""

import os
import random
from hashlib import sha256
from pathlib import Path

from locust import FastHttpUser, between, task

PHOTO = Path(os.environ.get("EDGESAM_PHOTO", Path(__file__).parents[2] / "service/web/samples/dahlia.jpg"))


class Annotator(FastHttpUser):
    """A person who clicks on one photo."""

    host = os.environ.get("EDGESAM_URL", "http://127.0.0.1:8000")
    wait_time = between(0.1, 1.0)

    def on_start(self) -> None:
        """Open the photo. The service knows it after the first user's upload."""
        key = os.environ.get("EDGESAM_API_KEY")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        photo = PHOTO.read_bytes()
        self.image_hash = sha256(photo).hexdigest()
        headers = {**self.headers, "Content-Type": "image/jpeg"}
        image = self.client.post("/embed", data=photo, headers=headers, name="open a photo").json()
        self.width, self.height = image["width"], image["height"]

    @task
    def click(self) -> None:
        """Click somewhere in the photo."""
        point = {"x": random.uniform(0, self.width), "y": random.uniform(0, self.height)}
        body = {"image_hash": self.image_hash, "prompts": [{"points": [point]}]}
        headers = {**self.headers, "X-Image-Hash": self.image_hash}
        self.client.post("/segment", json=body, headers=headers, name="click")
