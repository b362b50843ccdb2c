"""The computing time of API keys whose requests share calls of the decoder."""

import asyncio

from support.noise_images import noise_file
from support.service_client import point

KEYS = ("a-long-key-of-one-team", "a-long-key-of-another-team")
REQUESTS = 16


async def test_requests_of_several_keys_that_share_a_call_share_its_time(open_service):
    service = await open_service(api_keys=KEYS, usage_metrics=True, decoder="onnx", decode_workers=1)
    service.use_key(KEYS[0])
    image_hash = (await service.embed(noise_file((60, 80), seed=31))).json()["image_hash"]
    calls = await service.sample("edgesam_batch_size_count", lane="decode")

    async def segment(number: int) -> int:
        service.use_key(KEYS[number % 2])  # httpx takes the headers before the first wait
        return (await service.segment(image_hash, point(5 + number, 20))).status_code

    statuses = await asyncio.gather(*(segment(number) for number in range(REQUESTS)))

    calls = await service.sample("edgesam_batch_size_count", lane="decode") - calls
    prompts = [await service.sample("edgesam_usage_prompts_total", key=key) for key in ("#1", "#2")]
    seconds = [
        await service.sample("edgesam_usage_compute_seconds_total", key=key, lane="decode") for key in ("#1", "#2")
    ]
    of_requests = await service.sample("edgesam_stage_duration_seconds_sum", stage="decode")
    assert statuses == [200] * REQUESTS
    assert calls < REQUESTS
    assert prompts == [REQUESTS / 2, REQUESTS / 2]
    assert min(seconds) > 0
    assert sum(seconds) < 0.999 * of_requests  # there, each request has the whole time of its calls
