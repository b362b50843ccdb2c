"""Build the distributions of a release, or check everything that a publisher would. Nothing is published.

Usage:
    python tests/tools/release dist                      from the last commit, into dist/
    python tests/tools/release check [--without-images] [--with-arm64]
                                                         the same, then every check
    python tests/tools/release wheel PLATFORM FOLDER     one wheel of what git knows of the working tree
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from checks import (
    check_alike,
    check_clean,
    check_contents,
    check_metadata,
    check_platforms,
    check_versions,
    sha256,
)
from distributions import PLATFORMS, ROOT, ReleaseError, build_all, build_of_working_tree, run
from installed import check_installed, check_same_masks

OUT = ROOT / "dist"


def main(arguments: list[str]) -> int:
    """Run one of the three commands. Returns the exit status."""
    try:
        match arguments:
            case ["dist"]:
                build_distributions(OUT)
            case ["check", *options] if set(options) <= {"--without-images", "--with-arm64"}:
                files = build_distributions(OUT)
                check_release(files, images="--without-images" not in options, arm64="--with-arm64" in options)
            case ["wheel", name, folder] if found := [platform for platform in PLATFORMS if platform.name == name]:
                print(build_of_working_tree(found[0], Path(folder)))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ReleaseError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    return 0


def build_distributions(out: Path) -> list[Path]:
    """Build all files of a release from the last commit into `out`, with their SHA-256 in SHA256SUMS."""
    print("Building source archives, wheels and the npm package of the last commit (two minutes)", flush=True)
    files = build_all(out)
    (out / "SHA256SUMS").write_text("".join(f"{sha256(path)}  {path.name}\n" for path in files), encoding="utf-8")
    for path in files:
        print(f"  {path.stat().st_size:>12,} bytes  {path.name}")
    return files


def check_release(files: list[Path], *, images: bool, arm64: bool) -> None:
    """Do all that a publisher would do, one step after the other, without publishing.

    Args:
        files: What `build_distributions` has built.
        images: Whether to build the image and its bill of materials.
        arm64: Whether to install the wheel for arm64 too, under emulation.

    Raises:
        ReleaseError: A step fails.
    """
    _step("everything is committed", check_clean)
    _step("one version", check_versions)
    with tempfile.TemporaryDirectory() as folder:
        _step("built again, byte for byte", lambda: check_alike(files, build_all(Path(folder))))
    _step("contents", lambda: check_contents(files))
    _step("metadata (twine)", lambda: check_metadata(files))
    _step("platforms (auditwheel)", lambda: check_platforms(files))
    (client,) = [path for path in files if path.name.startswith("edgesam_client-") and path.suffix == ".whl"]
    areas: dict[str, int] = {}
    wheels = [("manylinux_2_28_x86_64", "native", None), ("none-any", "onnx", None)]
    if arm64:
        wheels.append(("manylinux_2_28_aarch64", "native", "arm64"))
    for tag, decoder, architecture in wheels:
        (wheel,) = [path for path in files if tag in path.name and path != client]

        def install(wheel: Path = wheel, decoder: str = decoder, architecture: str | None = architecture) -> str:
            found, areas[wheel.name] = check_installed(wheel, client, decoder=decoder, architecture=architecture)
            return found

        _step(f"installed in a bare container: {wheel.name}", install)
    _step("the same masks", lambda: check_same_masks(areas))
    _step("Helm chart", lambda: _make("chart"))
    _step("bill of materials", lambda: _make("sbom"))
    if images:
        _step("image", lambda: _make("image"))
        _step("bill of materials of the image", lambda: _make("image-sbom"))
    print(f"\nEverything is ready in {OUT}. docs/how-to/release.md says how to publish it.")


def _step(name: str, check: Callable[[], str]) -> None:
    print(f"{name}: ", end="", flush=True)
    print(check(), flush=True)


def _make(target: str) -> str:
    run(["make", "-s", target], cwd=ROOT)
    return "done"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
