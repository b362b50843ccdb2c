"""A failure of our own code: the client gets an id and no message. The log has the reason under that id."""

import logging

import httpx
from support.service_client import assert_problem_document

from service.app import create_app
from service.settings import Settings


async def test_a_failure_of_our_own_is_a_problem_with_an_id_and_no_message(artifact, caplog):
    app = create_app(Settings(model_dir=artifact))

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("a secret of the house")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        with caplog.at_level(logging.ERROR, "service.request"):
            response = await client.get("/fails", headers={"X-Request-ID": "broken-7"})

    document = assert_problem_document(response, 500, "internal-error")
    assert "secret" not in response.text
    assert "broken-7" in document["detail"]
    (record,) = (record for record in caplog.records if record.getMessage() == "request failed")
    assert record.request_id == "broken-7"
    assert "a secret of the house" in str(record.exc_info)
