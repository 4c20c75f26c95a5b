import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def build(folder, **environment):
    command = [sys.executable, ROOT / "data" / "supervoxels" / "setup.py", "build_ext", "--inplace"]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_building_from_any_folder_is_quiet_and_leaves_nothing_there(tmp_path):
    done = build(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())
    assert list((ROOT / "data" / "supervoxels").glob("felzenszwalb_3d_cy.*.so"))
    assert not list((ROOT / "data" / "supervoxels").glob("*.c"))


def test_building_without_a_c_compiler_names_what_to_install(tmp_path):
    done = build(tmp_path, CC="no-such-compiler")
    assert done.returncode != 0
    assert done.stderr.startswith("error: no C compiler: 'no-such-compiler' is not on the PATH; install one")
    assert len(done.stderr.splitlines()) == 1
