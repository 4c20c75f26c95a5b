import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bench.results_page

ROOT = Path(bench.results_page.__file__).parents[1]

BENCHMARK = """
import sys
def main():
    write_section("{name}")
def write_section(name):
    print(name, *sys.argv[1:])
    sys.exit({code})
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def clone(tmp_path):
    """Make a repository of three fake benchmarks that run with this Python."""
    for folder in ("bench", "script"):
        (tmp_path / folder).mkdir()
    for name in ("run.sh", "gpu.sh"):
        shutil.copy(ROOT / "bench" / name, tmp_path / "bench")
    (tmp_path / "script" / "environment.sh").write_text(
        'cd "$(dirname -- "${BASH_SOURCE[0]}")/.."\nprepare_environment() { python=$PYTHON; }\n'
    )
    for name, code in (("supervoxels", 0), ("broken", 1), ("step", 0)):
        (tmp_path / "bench" / f"{name}.py").write_text(BENCHMARK.format(name=name, code=code))
    (tmp_path / "bench" / "results_page.py").write_text("import sys\nprint('page', *sys.argv[1:])\n")
    (tmp_path / "bench" / "shared.py").write_text("def write_section(name): ...\n")
    return tmp_path


def run(clone, *arguments, script="run.sh"):
    command = ["bash", str(clone / "bench" / script), *arguments]
    environment = {**os.environ, "PYTHON": sys.executable}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return process.returncode, process.stdout.splitlines(), process.stderr.splitlines()


def test_named_benchmarks_run_in_the_requested_order_before_the_page(clone):
    code, out, _ = run(clone, "step", "supervoxels", "--quick")
    assert (code, out) == (0, ["step --quick", "supervoxels --quick", "page --quick"])


def test_all_run_by_default_and_a_failure_does_not_stop_the_others(clone):
    code, out, error = run(clone)
    assert (code, out) == (1, ["broken", "step", "supervoxels", "page"])
    assert error[-1] == "error: these failed, see above: broken"


@pytest.mark.parametrize("words", [["--device", "cuda"], ["--device=cuda"]])
def test_a_device_selects_the_benchmarks_that_support_one(clone, words):
    (clone / "bench" / "broken.py").unlink()
    code, out, _ = run(clone, *words)
    assert (code, out) == (0, ["step --device cuda", "page"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "error: no benchmark is called 'nothing'; there are: broken step supervoxels"),
        (["shared"], "error: no benchmark is called 'shared'; there are: broken step supervoxels"),
        (["--fast"], "error: unknown option '--fast'; bash bench/run.sh --help lists them"),
        (["--device"], "error: --device needs a name: cpu, cuda or mps"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line_and_nothing_runs(clone, words, message):
    assert run(clone, "step", *words) == (2, [], [message])


def test_help_runs_nothing(clone):
    code, out, error = run(clone, "--help")
    assert code == 0
    assert out[0].startswith("usage: bash bench/run.sh")
    assert error == []


GPU_PARTS = ("fold", "training_step", "evaluation", "memory", "growth")


def test_the_gpu_script_runs_all_parts_and_reports_those_that_failed(clone):
    for name in GPU_PARTS:
        (clone / "bench" / f"{name}.py").write_text(BENCHMARK.format(name=name, code=int(name == "memory")))
    code, out, error = run(clone, "--device", "cpu", "--quick", "optim.lr=0.1", script="gpu.sh")
    assert (code, error[-1]) == (1, "error: these failed or took too long, see above: memory")
    words = "--device cpu --quick"
    assert out == [
        f"fold {words} optim.lr=0.1",
        *(f"{name} {words}" for name in GPU_PARTS[1:]),
        "page --quick",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fast"], "error: unknown option '--fast'; bash bench/gpu.sh --help lists them"),
        (["--device"], "error: --device needs a name: cuda or cpu"),
    ],
)
def test_wrong_words_of_the_gpu_script_are_refused_in_one_line(clone, words, message):
    assert run(clone, *words, script="gpu.sh") == (2, [], [message])
