"""Cores that a process may use: affinity, cgroup quotas of both versions, Slurm."""

import os

import pytest

from util.parallel import processor
from util.parallel.processor import core_limits, usable_cores


@pytest.fixture(name="set_cgroups")
def _set_cgroups(tmp_path, monkeypatch):
    """Let the process see other cgroups: the lines of its own, and files below the root."""

    def set_cgroups(own, files):
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.setattr(processor, "_OWN_CGROUPS", tmp_path / "own")
        monkeypatch.setattr(processor, "_CGROUP_ROOT", tmp_path / "root")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))

    return set_cgroups


V1 = "5:memory:/job\n4:cpu,cpuacct:/job\n"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "350000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/user/job\n", {"user/job/cpu.max": "max 100000", "user/cpu.max": "200000 100000"}, 2),
        ("0::/user/job\n", {"user/job/cpu.max": "200000 100000", "user/cpu.max": "300000 100000"}, 2),
        ("0::/../host/path\n", {"cpu.max": "500000 100000"}, 5),
        ("0::/missing\n", {"cpu.max": "damaged"}, 16),
        (V1, {"cpu/job/cpu.cfs_quota_us": "600000", "cpu/job/cpu.cfs_period_us": "100000"}, 6),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("", {}, 16),
    ],
)
def test_the_lowest_quota_of_all_levels_limits_the_cores(set_cgroups, own, files, cores):
    set_cgroups(own, files)
    assert usable_cores({}) == cores


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "8"}, 3),
        ({"SLURM_CPUS_ON_NODE": "8"}, 8),
        ({"SLURM_CPUS_PER_TASK": "64"}, 16),
        ({"SLURM_CPUS_PER_TASK": "some"}, 16),
    ],
)
def test_slurm_limits_the_cores(set_cgroups, environment, cores):
    set_cgroups("0::/\n", {})
    assert usable_cores(environment) == cores
    assert min(core_limits(environment))[0] == cores


def test_this_machine_has_cores():
    assert 1 <= usable_cores() <= os.cpu_count()
