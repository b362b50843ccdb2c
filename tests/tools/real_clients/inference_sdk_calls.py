"""Calls a service with Roboflow's inference-sdk, with the Python of its environment; see inference_sdk.py.

The last line on stdout is a JSON object with the answers.
"""

import argparse
import json
from pathlib import Path

from inference_sdk import InferenceConfiguration, InferenceHTTPClient
from inference_sdk.http.errors import HTTPCallErrorError


def main() -> None:
    """Embed and segment an image, and print the answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--prompts", type=json.loads, required=True)
    parser.add_argument("--outside", type=json.loads, required=True, help="prompts outside the image")
    arguments = parser.parse_args()
    image, prompts = str(arguments.image), arguments.prompts

    client = InferenceHTTPClient(arguments.server, api_key=arguments.key)
    client.configure(InferenceConfiguration(api_key_transport="header"))
    found = {
        "embedded": client.sam3_embed_image(image),
        "sam2": client.sam2_segment_image(image, prompts=prompts),
        "sam2_rle": client.sam2_segment_image(image, prompts=prompts, mask_input_format="rle"),
        "sam3": client.sam3_visual_segment(image, prompts=prompts),
        "refusal": refusal(client, image, arguments.outside),
    }
    print(json.dumps(found), flush=True)


def refusal(client: InferenceHTTPClient, image: str, prompts: list[dict[str, object]]) -> dict[str, object]:
    """Return what the SDK tells about prompts that the service refuses."""
    try:
        client.sam2_segment_image(image, prompts=prompts)
    except HTTPCallErrorError as error:
        return {"status": error.status_code, "message": str(error.api_message)}
    return {}


if __name__ == "__main__":
    main()
