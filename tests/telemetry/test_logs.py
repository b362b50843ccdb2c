"""Log lines for people: text that a terminal shows as it is."""

import logging
import re

import pytest

from service.telemetry.logs import TextFormatter, configure_logging, is_text


def line(message, *, level=logging.INFO, exc_info=None, **extra):
    """Return the line that the formatter makes of a record."""
    record = logging.getLogger("service").makeRecord("service", level, "", 0, message, (), exc_info, extra=extra)
    return TextFormatter().format(record)


def test_a_line_has_time_message_and_fields():
    text = line("request", route="/segment", status=200, stages_ms={"decode": 8.1, "serialize": 0.2})

    assert re.fullmatch(
        r"\d\d:\d\d:\d\d request route=/segment status=200 stages_ms=\{decode=8\.1 serialize=0\.2\}", text
    )


def test_the_level_is_shown_unless_it_is_info():
    assert " warning: connections are refused limit=5" in line(
        "connections are refused", level=logging.WARNING, limit=5
    )


@pytest.mark.parametrize("value", ["a\nb", "a\x1b[2Jb", "a\rb"])
def test_values_cannot_control_the_terminal(value):
    assert value not in line("request", key=value)
    assert line("request", key=value).isprintable()


@pytest.mark.parametrize("message", ["a\x1b[2Jb", "a\rb"])
def test_messages_cannot_control_the_terminal(message):
    assert line(message).isprintable()


def test_a_message_that_is_no_text_is_logged(capsys):
    handlers, level = logging.root.handlers[:], logging.root.level
    configure_logging("info", "text")
    try:
        logging.getLogger("library").info({"key": ["value"]})
    finally:
        logging.root.handlers[:], logging.root.level = handlers, level

    assert "{'key': ['value']}" in capsys.readouterr().out


def test_an_exception_follows_its_line():
    error = ValueError("broken")

    text = line("request failed", level=logging.ERROR, exc_info=(ValueError, error, None))

    first, last = text.splitlines()
    assert first.endswith("error: request failed")
    assert last == "ValueError: broken"


def test_a_file_is_not_a_terminal(tmp_path):
    with (tmp_path / "log").open("w") as file:
        assert not is_text("auto", file)
        assert is_text("text", file)
        assert not is_text("json", file)
