"""Add requirements and the Cython extension to the package of pyproject.toml, for `pip install .`."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from setuptools import setup

# By its path: the repository is not on sys.path while pip builds.
spec = spec_from_file_location("extension_setup", Path("data", "supervoxels", "setup.py"))
extension_setup = module_from_spec(spec)
spec.loader.exec_module(extension_setup)

requirements, _tools = Path("requirements.txt").read_text(encoding="utf-8").split("# Tools")

setup(
    install_requires=requirements.splitlines(),
    ext_modules=extension_setup.make_extensions(),
    cmdclass={"build_ext": extension_setup.BuildExtension},
)
