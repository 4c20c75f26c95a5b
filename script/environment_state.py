"""Print what the current interpreter lacks, as `key=value` lines.

`environment.sh` reads them; one start of Python checks everything. Old interpreters without packages must be
able to run this file, so it imports only the standard library at the top.
"""

import hashlib
import sys
from pathlib import Path

MIN_PYTHON = (3, 10)
EXTENSION_DIR = Path("data/supervoxels")
EXTENSION_NAME = "felzenszwalb_3d_cy"


def fingerprint(paths):
    """Hash the names and contents of files, including which are missing."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.is_file() else b"missing"
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def unmet_requirements(requirements_file):
    """List the lines of a requirements file that installed packages do not satisfy.

    Reads package metadata instead of importing, as importing torch takes seconds; ignores dependencies.
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
    """Check that the extension is built for this interpreter from current sources.

    Returns:
        Path of the stamp file, hash of the sources that it must hold, whether the extension is up to date.
    """
    from sysconfig import get_config_var

    suffix = get_config_var("EXT_SUFFIX")
    folder = repo_root / EXTENSION_DIR
    sources = [folder / "setup.py", *sorted(folder.glob("*.pyx")), *sorted(folder.glob("*.pxd"))]
    # Relative paths, so that a moved clone is not rebuilt.
    sources_hash = fingerprint([source.relative_to(repo_root) for source in sources])
    stamp = repo_root / "build" / f"{EXTENSION_NAME}{suffix}.stamp"
    built = folder / f"{EXTENSION_NAME}{suffix}"
    is_current = built.is_file() and stamp.is_file() and stamp.read_text().strip() == sources_hash
    return stamp, sources_hash, is_current


def main():
    """Print the state of this interpreter for the repository in the current folder."""
    print("version={}.{}.{}".format(*sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        print("unmet=Python>={}.{}".format(*MIN_PYTHON))
        return
    requirements_file = Path("requirements.txt")
    print(f"unmet={', '.join(unmet_requirements(requirements_file))}")
    print(f"requirements={fingerprint([requirements_file])}")
    stamp, sources_hash, is_current = extension_state(Path.cwd())
    print(f"extension_stamp={stamp}")
    print(f"extension_sources={sources_hash}")
    print(f"extension={'current' if is_current else 'stale'}")


if __name__ == "__main__":
    main()
