"""Report what the Python that runs this file still lacks, as `key=value` lines.

`environment.sh` reads them; one start of Python answers every question of a second call. It must run on a
Python older than the project's, without any package, so nothing but the standard library is imported above.
"""

import hashlib
import sys
from pathlib import Path

OLDEST_PYTHON = (3, 10)
EXTENSION_DIR = Path("data/supervoxels")
EXTENSION_NAME = "felzenszwalb_3d_cy"


def fingerprint(paths):
    """Hash the names and contents of files; a missing file counts as such."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.is_file() else b"missing"
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def unmet_requirements(requirements_file):
    """List the lines of a requirements file that installed packages do not satisfy.

    Only what is named in the file is checked, by its metadata: importing torch alone would take seconds.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        from packaging.requirements import Requirement
    except ImportError:
        try:
            from pip._vendor.packaging.requirements import Requirement
        except ImportError:
            return ["pip"]

    unmet = []
    for line in requirements_file.read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                unmet.append(text)
        except PackageNotFoundError:
            unmet.append(text)
    return unmet


def extension_state(repo_root):
    """Tell whether the Cython extension fits this Python and its sources.

    Returns:
        The stamp file's path, what it must hold, and whether the built extension is up to date.
    """
    from sysconfig import get_config_var

    suffix = get_config_var("EXT_SUFFIX")
    folder = repo_root / EXTENSION_DIR
    sources = [folder / "setup.py", *sorted(folder.glob("*.pyx")), *sorted(folder.glob("*.pxd"))]
    # Not the absolute paths: a clone that was moved need not be built again.
    wanted = fingerprint([source.relative_to(repo_root) for source in sources])
    stamp = repo_root / "build" / f"{EXTENSION_NAME}{suffix}.stamp"
    built = folder / f"{EXTENSION_NAME}{suffix}"
    is_current = built.is_file() and stamp.is_file() and stamp.read_text().strip() == wanted
    return stamp, wanted, is_current


def main():
    """Print the state of this Python for the repository in the current folder."""
    print("version={}.{}.{}".format(*sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        print("unmet=Python>={}.{}".format(*OLDEST_PYTHON))
        return
    requirements_file = Path("requirements.txt")
    print(f"unmet={', '.join(unmet_requirements(requirements_file))}")
    print(f"requirements={fingerprint([requirements_file])}")
    stamp, wanted, is_current = extension_state(Path.cwd())
    print(f"extension_stamp={stamp}")
    print(f"extension_sources={wanted}")
    print(f"extension={'current' if is_current else 'stale'}")


if __name__ == "__main__":
    main()
