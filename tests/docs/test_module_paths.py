"""Paths in the documents: every file and folder of `service`, `model_store` and `tests` that they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_INLINE_CODE = re.compile(r"`([^`\n]+)`")
_MODULE_PATH = re.compile(r"(?<![\w./-])(?:service|model_store|tests)/[\w./*-]*[\w/*]")


def module_paths(text: str) -> list[str]:
    """Return the paths below `service`, `model_store` and `tests` in the inline code of a Markdown text.

    Fenced blocks are left out: `kubectl` writes `service/NAME` for a Service of Kubernetes.
    """
    return [path for code in _INLINE_CODE.findall(_FENCED.sub("", text)) for path in _MODULE_PATH.findall(code)]


def test_documents_name_modules():
    named = {path for document in DOCUMENTS for path in module_paths(document.read_text(encoding="utf-8"))}

    assert "service/app.py" in named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_that_a_document_names_exists(document: Path):
    named = module_paths(document.read_text(encoding="utf-8"))

    missing = [path for path in named if not any(ROOT.glob(path))]

    assert missing == []
