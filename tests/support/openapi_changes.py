"""The changes between two OpenAPI documents that break a client."""

from collections.abc import Iterator, Mapping
from typing import Any

# Texts for people. They may change at any time.
_TEXTS = frozenset({"description", "title", "summary", "example", "examples", "info", "tags"})
# Names below these members are chosen by the service. `title` is a text of a schema, but may be a property's name.
_MAPPINGS = frozenset({"paths", "properties", "schemas", "responses", "content", "headers", "securitySchemes", "$defs"})


def breaking_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what `new` removes from `old` or changes in it; one line for each place.

    New paths, operations, answers, optional members and enum values are no breaking changes. A new required member of a
    request is one.

    Args:
        old: OpenAPI document that clients know.
        new: OpenAPI document of the service as it is now.
    """
    return [*_changes(old, new, "#"), *_new_demands(old, new)]


def _changes(old: Any, new: Any, where: str, *, is_mapping: bool = False) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name, value in old.items():
            if name in _TEXTS and not is_mapping:
                continue
            if name not in new:
                yield f"{where}/{name} is missing"
                continue
            yield from _changes(value, new[name], f"{where}/{name}", is_mapping=name in _MAPPINGS and not is_mapping)
    elif isinstance(old, list) and isinstance(new, list):
        for item in old:
            if not any(not [*_changes(item, other, where)] for other in new):
                yield f"{where} lacks {_short(item)}"
    elif type(old) is not type(new) or old != new:
        yield f"{where} was {_short(old)} and is {_short(new)}"


def _new_demands(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Members and parameters that a request needs now and did not need before."""
    schemas = old["components"]["schemas"]
    for name in sorted(_request_schemas(old) & set(new["components"]["schemas"])):
        demanded = set(new["components"]["schemas"][name].get("required", ()))
        for member in sorted(demanded - set(schemas[name].get("required", ()))):
            yield f"#/components/schemas/{name} demands {member}"
    for path, operations in old["paths"].items():
        for method, operation in operations.items():
            found = new["paths"].get(path, {}).get(method, {})
            known = {(one["in"], one["name"]) for one in operation.get("parameters", ()) if one.get("required")}
            demanded = {(one["in"], one["name"]) for one in found.get("parameters", ()) if one.get("required")}
            for place, name in sorted(demanded - known):
                yield f"#/paths/{path}/{method} demands the {place} parameter {name}"


def _request_schemas(document: Mapping[str, Any]) -> set[str]:
    """Names of the schemas that bodies of requests are made of."""
    bodies = [one.get("requestBody") for path in document["paths"].values() for one in path.values()]
    found: set[str] = set()
    waiting = list(_references(bodies))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(document["components"]["schemas"][name])
    return found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
