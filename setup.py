"""The library in service/native/csrc, once for each instruction set; everything else stands in pyproject.toml.

A machine without a C compiler, or of another kind, gets none of them: there ONNX Runtime decodes and NumPy makes the
masks.
"""

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("service/native/csrc")
LEVELS = ("x86-64-v3", "x86-64-v4") if platform.machine() == "x86_64" and sys.platform == "linux" else ()


def library(level: str) -> Extension:
    """A plain shared library that ctypes loads, under the name of an extension module so that wheels carry it."""
    return Extension(
        f"service.native._{level.replace('-', '_')}",
        sources=sorted(map(str, SOURCES.glob("*.c"))),
        depends=sorted(map(str, SOURCES.glob("*.h"))),
        extra_compile_args=["-std=gnu11", "-O3", "-g0", f"-march={level}", "-fvisibility=hidden"],
        libraries=["m"],
        extra_link_args=["-pthread"],
        optional=True,
    )


setup(ext_modules=[library(level) for level in LEVELS])
