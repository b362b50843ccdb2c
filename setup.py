"""The library in service/native/csrc, once for each instruction set; everything else stands in pyproject.toml.

A machine without a C compiler, or of another kind, gets none of them: there ONNX Runtime decodes and NumPy makes the
masks. `sysconfig` names the machine that is built for, which differs from this one in a cross build
(service/native/cross_build.py).
"""

import sysconfig
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("service/native/csrc")
# Instruction sets of a platform, each with the compiler's option. GCC and clang both know these.
BUILDS = {
    "linux-x86_64": {"x86-64-v3": "-march=x86-64-v3", "x86-64-v4": "-march=x86-64-v4"},
    "linux-aarch64": {"armv8-a": "-mcpu=generic"},
}


def library(level: str, option: str) -> Extension:
    """A plain shared library that ctypes loads, under the name of an extension module so that wheels carry it."""
    return Extension(
        f"service.native._{level.replace('-', '_')}",
        sources=sorted(map(str, SOURCES.glob("*.c"))),
        depends=sorted(map(str, SOURCES.glob("*.h"))),
        extra_compile_args=["-std=gnu11", "-O3", "-g0", option, "-fvisibility=hidden"],
        libraries=["m"],
        extra_link_args=["-pthread"],
        optional=True,
    )


setup(ext_modules=[library(*build) for build in BUILDS.get(sysconfig.get_platform(), {}).items()])
