"""Names that clients and operators depend on: some may be added, none may be removed or changed."""

import copy
import json
from typing import Any

import pytest
from support.openapi_changes import breaking_changes
from support.public_names import (
    COMMAND,
    NAMES_FILE,
    OPENAPI_FILE,
    as_text,
    openapi_document,
    public_names,
    removed_names,
)


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return json.loads(OPENAPI_FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document()


def test_the_openapi_document_has_only_grown(committed, document):
    assert breaking_changes(committed, document) == []


def test_the_committed_openapi_document_is_that_of_the_service(document):
    assert OPENAPI_FILE.read_text(encoding="utf-8") == as_text(document), f"write it anew: {COMMAND}"


def test_settings_metrics_and_problems_have_only_grown():
    assert removed_names(json.loads(NAMES_FILE.read_text(encoding="utf-8")), public_names()) == []


def test_the_committed_names_are_those_of_the_code():
    assert NAMES_FILE.read_text(encoding="utf-8") == as_text(public_names()), f"write them anew: {COMMAND}"


def _without_operation(document: dict[str, Any]) -> None:
    del document["paths"]["/embed/{image_hash}"]["head"]


def _with_other_operation_id(document: dict[str, Any]) -> None:
    document["paths"]["/segment"]["post"]["operationId"] = "cut_out"


def _without_property(document: dict[str, Any]) -> None:
    del document["components"]["schemas"]["MaskModel"]["properties"]["area"]


def _with_other_type(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["MaskModel"]["properties"]["area"]["type"] = "number"


def _without_enum_value(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["SegmentRequest"]["properties"]["format"]["enum"].remove("polygon")


def _without_certain_member(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["SegmentResponse"]["required"].remove("results")


def _with_demanded_member(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["PointModel"]["required"].append("label")


def _with_demanded_parameter(document: dict[str, Any]) -> None:
    parameter = {"in": "query", "name": "format", "required": True, "schema": {"type": "string"}}
    document["paths"]["/segment"]["post"].setdefault("parameters", []).append(parameter)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (_without_operation, "/embed/{image_hash}/head is missing"),
        (_with_other_operation_id, "/segment/post/operationId was segment"),
        (_without_property, "MaskModel/properties/area is missing"),
        (_with_other_type, "MaskModel/properties/area/type was integer"),
        (_without_enum_value, "format/enum lacks polygon"),
        (_without_certain_member, "SegmentResponse/required lacks results"),
        (_with_demanded_member, "PointModel demands label"),
        (_with_demanded_parameter, "/segment/post demands the query parameter format"),
    ],
)
def test_a_change_that_breaks_clients_is_found(committed, change, place):
    changed = copy.deepcopy(committed)
    change(changed)

    (found,) = breaking_changes(committed, changed)

    assert place in found


def test_additions_and_changed_texts_are_allowed(committed):
    changed = copy.deepcopy(committed)
    changed["paths"]["/new"] = {"get": {"operationId": "new", "responses": {}}}
    changed["paths"]["/embed"]["post"]["summary"] = "Upload an image"
    schemas = changed["components"]["schemas"]
    schemas["PointModel"]["properties"]["weight"] = {"type": "number"}
    schemas["SegmentRequest"]["properties"]["format"]["enum"].append("svg")
    schemas["MaskModel"]["required"].append("new")

    assert breaking_changes(committed, changed) == []


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("metrics", "edgesam_in_flight", {"type": "gauge", "labels": []}),
        ("problems", "overloaded", [500, "The service is at capacity"]),
    ],
)
def test_a_name_with_another_meaning_is_found(kind, name, value):
    names = public_names()
    changed = {**names, kind: {**names[kind], name: value}}

    assert [line.split(" ")[:2] for line in removed_names(names, changed)] == [[f"{kind}:", name]]
    assert removed_names(names, {**names, "settings": names["settings"][1:]}) == [
        f"setting {names['settings'][0]} is missing"
    ]
