"""The library in service/native/csrc, once for each instruction set; everything else stands in pyproject.toml.

A machine without a C compiler, or of another kind, gets none of them: there ONNX Runtime decodes and NumPy makes the
masks. `sysconfig` names the machine that is built for, which differs from this one in a cross build: the Makefile says
how (`make dist`).
"""

import os
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("service/native/csrc")
# Instruction sets of a platform, each with the compiler's option. GCC and clang both know these.
BUILDS = {
    "linux-x86_64": {"x86-64-v3": "-march=x86-64-v3", "x86-64-v4": "-march=x86-64-v4"},
    "linux-aarch64": {"armv8-a": "-mcpu=generic"},
}


class BuildLibraries(build_ext):
    """Builds plain shared libraries, which ctypes loads: their names contain no version of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the path of a library: service/native/_armv8_a.so."""
        return f"{fullname.replace('.', '/')}.so"


class AnyPythonWheel(bdist_wheel):
    """Makes one wheel of a platform for all versions of Python, because the libraries do not use Python's C API."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of the wheel's name: py3-none-manylinux_2_28_x86_64."""
        return "py3", "none", super().get_tag()[2]


def spelled(option: str) -> str:
    """Return an option as the compiler reads it: `zig cc` takes what follows a hyphen in -march for a feature."""
    return option.replace("x86-64-", "x86_64_") if "ziglang" in os.environ.get("CC", "") else option


def library(level: str, option: str) -> Extension:
    """A plain shared library that ctypes loads, under the name of an extension module so that wheels carry it."""
    return Extension(
        f"service.native._{level.replace('-', '_')}",
        sources=sorted(map(str, SOURCES.glob("*.c"))),
        depends=sorted(map(str, SOURCES.glob("*.h"))),
        extra_compile_args=["-std=gnu11", "-O3", "-g0", spelled(option), "-fvisibility=hidden"],
        libraries=["m"],
        extra_link_args=["-pthread"],
        optional=True,
    )


setup(
    ext_modules=[library(*build) for build in BUILDS.get(sysconfig.get_platform(), {}).items()],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": AnyPythonWheel},
)
