"""Build the supervoxel extension in place.

`python data/supervoxels/setup.py build_ext --inplace`, from any folder. Intermediate files go to `build/`.
"""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

try:
    from Cython.Build import cythonize
    from setuptools import Extension, setup
    from setuptools.command.build_ext import build_ext
except ImportError as error:
    sys.exit(f"error: {error.name} is missing; run 'pip install -r requirements.txt' first")

# Identical results on every machine: no fused multiply-add, no reassociation, whatever CFLAGS says.
FLAGS = {"unix": ["-O3", "-fno-fast-math", "-ffp-contract=off"], "msvc": ["/O2", "/fp:precise"]}


class BuildExtension(build_ext):
    """Build with our flags, and report a missing compiler."""

    def build_extensions(self) -> None:
        """Compile; exits with one line when there is no C compiler."""
        command = getattr(self.compiler, "compiler_so", None)
        if command and shutil.which(command[0]) is None:
            sys.exit(
                f"error: no C compiler: '{command[0]}' is not on the PATH; install one (Debian, Ubuntu: "
                "'apt install build-essential python3-dev'; macOS: 'xcode-select --install') "
                "or point CC to yours"
            )
        for extension in self.extensions:
            extension.extra_compile_args = FLAGS.get(self.compiler.compiler_type, [])
        super().build_extensions()


def main() -> None:
    """Run setuptools from the repository root, where the extension's name is a path."""
    os.chdir(ROOT)
    extension = Extension(
        "data.supervoxels.felzenszwalb_3d_cy", [str(Path("data", "supervoxels", "felzenszwalb_3d_cy.pyx"))]
    )
    setup(
        name="hcpmnet-supervoxels",
        packages=[],
        ext_modules=cythonize([extension], build_dir=str(Path("build", "cython")), quiet=True),
        cmdclass={"build_ext": BuildExtension},
        script_args=["--quiet", *sys.argv[1:]],
    )


if __name__ == "__main__":
    main()
