"""A request holds one mask at the resolution of the image at a time, whatever its number of masks."""

import io
from pathlib import Path

from PIL import Image
from support.service_client import embed, open_client, point, segment
from support.service_process import ServiceProcess

SIDE = 6000  # 36 megapixels; a mask over all of it takes as many bytes


def peak_bytes(pid):
    """Return the peak memory of the process, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_masks_of_a_large_image_are_held_one_at_a_time(artifact):
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(buffer, "JPEG")
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact)}) as service, open_client(service.url) as client:
        image_hash = embed(client, buffer.getvalue())
        segment(client, image_hash, *[point(9, 9)] * 8, multimask=1, format="none")
        before = peak_bytes(service.process.pid)

        masks = segment(client, image_hash, *[point(90 + i, 90) for i in range(12)], multimask=4, format="none")
        growth = peak_bytes(service.process.pid) - before

    areas = [mask["area"] for group in masks for mask in group]
    assert len(areas) == 48
    assert sum(areas) > 8 * SIDE * SIDE  # held together, their crops would take more than this
    assert growth < 5 * SIDE * SIDE
