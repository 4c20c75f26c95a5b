import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import file_states, processes
from data.datasets import find_spec
from data.layout import DatasetLayout
from data.supervoxels import __main__ as command
from data.supervoxels import generation, supervoxel_records
from data.supervoxels.generation import generate_supervoxels
from data.supervoxels.segmentation import make_supervoxels
from util.errors import UserError
from util.io.image_io import Geometry, read_volume, write_volume

ROOT = Path(__file__).resolve().parents[3]
GEOMETRY = Geometry(
    shape=(3, 12, 14),
    spacing_mm=(4.0, 1.5, 1.5),
    origin_mm=(-20.0, 5.0, 70.0),
    direction=(0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
)
SCAN_IDS = (2, 7, 10)


def write_scan(layout, scan_id, *, seed):
    volume = np.random.default_rng(seed).integers(0, 200, GEOMETRY.shape).astype(np.int16)
    write_volume(layout.image_path(scan_id), volume, GEOMETRY)


@pytest.fixture
def layout(tmp_path):
    spec = find_spec("PHANTOM")
    layout = DatasetLayout(
        spec=spec, data_dir=tmp_path / "in", supervoxel_dir=tmp_path / "out", supervoxel_min_vox=20
    )
    for scan_id in SCAN_IDS:
        write_scan(layout, scan_id, seed=scan_id)
    return layout


def generate(layout, **keywords):
    return generate_supervoxels(layout, **{"n_workers": 1, "progress": False, **keywords})


def content(layout):
    return {path.name: path.read_bytes() for path in layout.supervoxels_dir.iterdir()}


def test_every_scan_gets_its_supervoxels_on_the_images_grid(layout):
    summary = generate(layout)
    assert (summary.made, summary.skipped, summary.foreign) == (SCAN_IDS, (), ())
    for scan_id in SCAN_IDS:
        volume, _ = read_volume(layout.image_path(scan_id))
        supervoxels, geometry = read_volume(layout.supervoxel_path(scan_id))
        expected = make_supervoxels(volume, GEOMETRY.spacing_mm, min_size_vox=20)
        np.testing.assert_array_equal(supervoxels, expected)
        assert supervoxels.dtype == np.int32
        assert geometry.same_grid(GEOMETRY)
        assert summary.n_supervoxels[scan_id] == expected.max() > 0


def test_a_second_call_skips_all_without_reading_any_content(layout, monkeypatch):
    first = generate(layout)
    before = content(layout)
    monkeypatch.setattr(file_states, "file_state", lambda path: pytest.fail(f"{path} was hashed"))
    second = generate(layout)
    assert (second.made, second.skipped) == ((), SCAN_IDS)
    assert second.n_supervoxels == first.n_supervoxels
    assert content(layout) == before


def test_a_copied_dataset_with_other_times_is_recognised_and_recorded(layout, monkeypatch):
    generate(layout)
    for path in (layout.image_path(7), layout.supervoxel_path(2)):
        os.utime(path, ns=(1, 1))
    assert generate(layout).skipped == SCAN_IDS
    monkeypatch.setattr(file_states, "file_state", lambda path: pytest.fail(f"{path} was hashed again"))
    assert generate(layout).skipped == SCAN_IDS


def test_times_that_cannot_be_recorded_do_no_harm(layout, monkeypatch):
    generate(layout)
    os.utime(layout.image_path(7), ns=(1, 1))

    def refuse(path, record):
        raise UserError("read-only")

    monkeypatch.setattr(supervoxel_records, "write_supervoxel_record", refuse)
    assert generate(layout).skipped == SCAN_IDS


def test_a_changed_image_is_segmented_again(layout):
    generate(layout)
    write_scan(layout, 7, seed=99)
    assert generate(layout).made == (7,)
    volume, _ = read_volume(layout.image_path(7))
    supervoxels, _ = read_volume(layout.supervoxel_path(7))
    np.testing.assert_array_equal(supervoxels, make_supervoxels(volume, GEOMETRY.spacing_mm, min_size_vox=20))


def test_a_changed_image_of_the_same_length_is_noticed(layout):
    generate(layout)
    path = supervoxel_records.supervoxel_record_path(layout.supervoxel_path(7))
    record = supervoxel_records.read_supervoxel_record(path)
    write_scan(layout, 7, seed=99)
    disguised = replace(record.image, size_bytes=layout.image_path(7).stat().st_size)
    supervoxel_records.write_supervoxel_record(path, replace(record, image=disguised))
    assert generate(layout).made == (7,)


def test_a_changed_image_of_the_same_age_is_noticed(layout):
    generate(layout)
    before = layout.image_path(7).stat()
    write_volume(layout.image_path(7), np.eye(14, dtype=np.int16)[None, :12].repeat(3, axis=0), GEOMETRY)
    assert layout.image_path(7).stat().st_size != before.st_size
    os.utime(layout.image_path(7), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert generate(layout).made == (7,)


def test_changed_parameters_redo_every_scan(layout, monkeypatch):
    generate(layout)
    assert generate(layout, scale=500.0).made == SCAN_IDS
    assert generate(layout, scale=500.0).skipped == SCAN_IDS
    monkeypatch.setattr(generation, "ALGORITHM_VERSION", generation.ALGORITHM_VERSION + 1)
    assert generate(layout, scale=500.0).made == SCAN_IDS


def test_another_minimum_size_lies_in_another_folder(layout):
    generate(layout)
    other = replace(layout, supervoxel_min_vox=40)
    assert generate(other).made == SCAN_IDS
    assert generate(layout).skipped == SCAN_IDS


@pytest.mark.parametrize("force", [False, True])
def test_a_minimum_size_recorded_otherwise_is_refused_and_kept(layout, force):
    other = replace(layout, supervoxel_min_vox=40)
    generate(other)
    other.supervoxels_dir.rename(layout.supervoxels_dir)
    before = content(layout)
    with pytest.raises(
        UserError, match=r"_2\.nii\.gz: .* at least 20 voxels, .* record says 40; .* n_sv=40, or"
    ):
        generate(layout, force=force)
    assert content(layout) == before


def test_what_stands_in_a_files_place_is_named_and_kept(layout):
    layout.supervoxels_dir.mkdir(parents=True)
    layout.supervoxel_path(2).symlink_to(layout.data_dir / "not mounted")
    layout.supervoxel_path(7).mkdir()
    with pytest.raises(UserError, match=r"_2\.nii\.gz: links to a file that does not exist; mount or"):
        generate(layout)
    assert layout.supervoxel_path(2).is_symlink()
    layout.supervoxel_path(2).unlink()
    with pytest.raises(UserError, match=r"_7\.nii\.gz: must be a file; remove"):
        generate(layout)


def test_a_file_at_the_folders_path_is_reported_before_anything_is_made(layout, monkeypatch):
    layout.supervoxel_dir.write_text("")
    monkeypatch.setattr(generation, "run_in_processes", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(UserError, match=r"path\.PHANTOM\.supervoxel_dir=.*: must be a folder, found a file"):
        generate(layout)


def test_a_deleted_or_damaged_supervoxel_file_is_rebuilt(layout):
    generate(layout)
    before = content(layout)
    layout.supervoxel_path(2).unlink()
    layout.supervoxel_path(10).write_bytes(layout.supervoxel_path(10).read_bytes()[:-7])
    assert generate(layout).made == (2, 10)
    after = content(layout)
    assert all(after[path.name] == before[path.name] for path in map(layout.supervoxel_path, SCAN_IDS))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "{}", '{"recipe": 1}', '{"recipe": {"scale": 1}}']
)
def test_a_damaged_record_triggers_a_rebuild(layout, text):
    generate(layout)
    supervoxel_records.supervoxel_record_path(layout.supervoxel_path(7)).write_text(text)
    assert generate(layout).made == (7,)
    assert generate(layout).skipped == SCAN_IDS


def test_records_hold_what_the_files_were_made_from(layout):
    generate(layout)
    record = json.loads(supervoxel_records.supervoxel_record_path(layout.supervoxel_path(7)).read_text())
    assert record["recipe"] == {
        "algorithm_version": generation.ALGORITHM_VERSION,
        "min_size_vox": 20,
        "scale": 1.0,
    }
    assert record["image"]["size_bytes"] == layout.image_path(7).stat().st_size
    assert record["supervoxels"] == vars(file_states.file_state(layout.supervoxel_path(7)))


def test_force_rebuilds_our_files(layout):
    generate(layout)
    assert generate(layout, force=True).made == SCAN_IDS


@pytest.mark.parametrize("force", [False, True])
def test_files_of_others_are_kept_and_counted(layout, force):
    foreign = np.arange(np.prod(GEOMETRY.shape), dtype=np.int16).reshape(GEOMETRY.shape)
    write_volume(layout.supervoxel_path(7), foreign, GEOMETRY)
    before = layout.supervoxel_path(7).read_bytes()
    summary = generate(layout, force=force)
    assert (summary.made, summary.foreign) == ((2, 10), (7,))
    assert 7 not in summary.n_supervoxels
    assert layout.supervoxel_path(7).read_bytes() == before


def test_a_file_of_others_on_another_grid_is_named(layout):
    grid = replace(GEOMETRY, shape=(2, 12, 14))
    write_volume(layout.supervoxel_path(7), np.zeros(grid.shape, dtype=np.int16), grid)
    with pytest.raises(
        UserError, match=r"superpix-MIDDLE_7\.nii\.gz.*\(2, 12, 14\) differs from image grid \(3, 12, 14\)"
    ):
        generate(layout)


def test_a_complete_dataset_needs_no_extension(layout, monkeypatch):
    generate(layout)
    monkeypatch.setitem(sys.modules, "data.supervoxels.segmentation", None)
    assert generate(layout).skipped == SCAN_IDS


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_scan_that_fails_is_named_and_leaves_nothing_half_written(layout, n_workers):
    write_volume(layout.image_path(7), np.zeros(GEOMETRY.shape, dtype=np.int16), GEOMETRY)
    with pytest.raises(UserError, match=r"image_7\.nii\.gz: volume: must not be constant, got 0"):
        generate(layout, n_workers=n_workers)
    assert not layout.supervoxel_path(7).exists()
    assert not [name for name in content(layout) if "tmp" in name or "_7." in name]
    write_scan(layout, 7, seed=7)
    summary = generate(layout)
    assert sorted(summary.made + summary.skipped) == list(SCAN_IDS)
    assert 2 in summary.skipped


@pytest.mark.parametrize("stage", ["write_volume", "file_state", "write_supervoxel_record"])
def test_an_interrupt_leaves_nothing_half_written(layout, monkeypatch, stage):
    generate(layout)
    for path in (*layout.supervoxels_dir.glob("*_7.*"), *layout.supervoxels_dir.glob("*_10.*")):
        path.unlink()
    before = content(layout)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(generation, stage, interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(layout)
    assert content(layout) == before
    assert generate(layout).made == (7, 10)


def test_cut_off_between_record_and_file_a_scan_is_rebuilt(layout):
    generate(layout)
    write_scan(layout, 7, seed=99)
    old = layout.supervoxel_path(7).read_bytes()
    generate(layout)
    layout.supervoxel_path(7).write_bytes(old)
    assert generate(layout).made == (7,)


def test_a_failure_that_is_no_users_fault_names_the_scan(layout, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(generation, "write_volume", fail)
    with pytest.raises(RuntimeError, match=r"scan 2 .*image_2\.nii\.gz.*oops"):
        generate(layout)


def test_lack_of_memory_is_reported_with_a_hint(layout, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(generation, "read_volume", fail)
    with pytest.raises(UserError, match=r"image_2\.nii\.gz: not enough memory.*fewer workers"):
        generate(layout)


def test_a_worker_that_dies_is_reported_with_a_hint(layout, monkeypatch):
    monkeypatch.setattr(processes, "_init_worker", os._exit)
    with pytest.raises(UserError, match=r"worker died.*fewer than 2 workers"):
        generate(layout, n_workers=2)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"n_workers": 0}, "workers: must be at least 1, got 0"), ({"scale": 0.0}, "scale: must be positive")],
)
def test_impossible_parameters_are_refused(layout, keywords, message):
    with pytest.raises(UserError, match=message):
        generate(layout, **keywords)
    assert not layout.supervoxels_dir.exists()


def test_workers_give_the_same_files_and_import_no_main_module(layout, tmp_path):
    generate(layout)
    expected = {name: data for name, data in content(layout).items() if name.endswith(".nii.gz")}
    other = replace(layout, supervoxel_dir=tmp_path / "parallel")
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from data.layout import DatasetLayout\n"
        "from data.datasets import find_spec\n"
        "from data.supervoxels.generation import generate_supervoxels\n"
        "print('main ran')\n"
        f"layout = DatasetLayout(find_spec('PHANTOM'), Path({str(layout.data_dir)!r}),\n"
        f"    Path({str(other.supervoxel_dir)!r}), 20)\n"
        "print(generate_supervoxels(layout, n_workers=2, progress=False).made)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == f"main ran\n{SCAN_IDS}\n"
    assert {name: data for name, data in content(other).items() if name.endswith(".nii.gz")} == expected


# The command


def run_command(layout, *options):
    folders = ["--data-dir", str(layout.data_dir), "--supervoxel-dir", str(layout.supervoxel_dir)]
    return command.main(["--dataset", "PHANTOM", *folders, "--min-size", "20", "--workers", "1", *options])


def test_the_command_reports_its_results(layout, capsys):
    assert run_command(layout) == 0
    counts = generate(layout).n_supervoxels
    output = ", ".join(f"{scan_id}: {counts[scan_id]}" for scan_id in SCAN_IDS)
    out = capsys.readouterr().out
    assert "3 made, 0 up to date, 0 foreign kept in " in out
    assert f"supervoxels per scan: {output}" in out
    assert run_command(layout) == 0
    assert "0 made, 3 up to date, 0 foreign kept in " in capsys.readouterr().out
    assert run_command(layout, "--force") == 0
    assert "3 made, 0 up to date, 0 foreign kept in " in capsys.readouterr().out


def test_the_command_defaults_to_the_datasets_minimum_size_and_folder(layout):
    assert command.main(["--dataset", "PHANTOM", "--data-dir", str(layout.data_dir), "--workers", "1"]) == 0
    assert (
        layout.data_dir / f"supervoxels_{layout.spec.supervoxel_min_vox}" / "superpix-MIDDLE_2.nii.gz"
    ).is_file()


def test_bad_input_ends_the_command_in_one_line_and_code_2(layout, capsys):
    layout.image_path(7).write_bytes(b"no image")
    assert run_command(layout) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "image_7.nii.gz" in last
    with pytest.raises(UserError, match=r"image_7\.nii\.gz"):
        run_command(layout, "--debug")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "NOWHERE"], "dataset=NOWHERE"),
        (["--min-size", "0"], "min size: must be a whole number"),
    ],
)
def test_impossible_options_end_the_command_with_code_2(layout, capsys, options, message):
    assert run_command(layout, *options) == 2
    assert f"error: {message}" in capsys.readouterr().err.replace("supervoxel ", "")


def test_an_interrupted_command_ends_with_code_130(layout, capsys, monkeypatch):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "generate_supervoxels", interrupt)
    assert run_command(layout) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_command_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "data.supervoxels", "--dataset", "NOWHERE"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: dataset=NOWHERE")
    assert len(done.stderr.splitlines()) == 1
