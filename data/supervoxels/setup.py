"""Build the supervoxel extension in place.

Run `python data/supervoxels/setup.py build_ext --inplace` in any folder. Intermediate files go to `build/`.
"""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

try:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension, setup
    from setuptools.command.build_ext import build_ext
except ImportError as error:
    sys.exit(f"error: {error.name} is missing; run 'pip install -r requirements.txt' first")

# No fused multiply-add and no reassociation, whatever CFLAGS says: results must not depend on the machine.
FLAGS = {"unix": ["-O3", "-fno-fast-math", "-ffp-contract=off"], "msvc": ["/O2", "/fp:precise"]}


class BuildExtension(build_ext):
    """Build with `FLAGS`, and report a missing compiler."""

    def build_extensions(self) -> None:
        """Compile; exit with a one-line message if there is no C compiler."""
        command = getattr(self.compiler, "compiler_so", None)
        if command and shutil.which(command[0]) is None:
            sys.exit(
                f"error: no C compiler: '{command[0]}' is not on the PATH; install one (Debian, Ubuntu: "
                "'apt install build-essential python3-dev'; macOS: 'xcode-select --install') "
                "or set CC to a compiler"
            )
        for extension in self.extensions:
            extension.extra_compile_args = FLAGS.get(self.compiler.compiler_type, [])
        super().build_extensions()


class ExtensionAlone(Distribution):
    """Ignore the repository's pyproject.toml, which describes the whole package."""

    def parse_config_files(self, *_args: object, **_options: object) -> None:
        """Read nothing."""


def make_extensions() -> list[Extension]:
    """Translate the extension to C; the current folder must be the repository's root."""
    extension = Extension(
        "data.supervoxels.felzenszwalb_3d_cy", [str(Path("data", "supervoxels", "felzenszwalb_3d_cy.pyx"))]
    )
    return cythonize([extension], build_dir=str(Path("build", "cython")), quiet=True)


def main() -> None:
    """Run setuptools in the repository's root, to which its paths are relative."""
    os.chdir(ROOT)
    setup(
        name="hcpmnet-supervoxels",
        packages=[],
        ext_modules=make_extensions(),
        cmdclass={"build_ext": BuildExtension},
        distclass=ExtensionAlone,
        script_args=["--quiet", *sys.argv[1:]],
    )


if __name__ == "__main__":
    main()
