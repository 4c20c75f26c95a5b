"""Files of a prepared dataset lie where others' prepared data has them."""

from pathlib import Path

import pytest

from data.datasets import find_spec
from data.layout import DatasetLayout
from util.errors import UserError


def _layout(data_dir, name="CHAOST2", **changes):
    spec = find_spec(name)
    defaults = {"supervoxel_dir": data_dir, "supervoxel_min_vox": spec.supervoxel_min_vox}
    return DatasetLayout(spec=spec, data_dir=data_dir, **{**defaults, **changes})


@pytest.mark.parametrize(
    ("name", "volumes", "supervoxels"),
    [
        ("CHAOST2", "chaos_MR_T2_normalized", "supervoxels_5000"),
        ("SABS", "sabs_CT_normalized", "supervoxels_5000"),
        ("CMR", "cmr_MR_normalized", "supervoxels_1000"),
    ],
)
def test_paths_are_those_of_the_published_data(name, volumes, supervoxels):
    layout = _layout(Path("d"), name)
    assert layout.image_path(7) == Path("d") / volumes / "image_7.nii.gz"
    assert layout.label_path(12) == Path("d") / volumes / "label_12.nii.gz"
    assert layout.supervoxel_path(0) == Path("d") / supervoxels / "superpix-MIDDLE_0.nii.gz"


def test_supervoxels_may_lie_elsewhere_and_have_another_size():
    layout = _layout(Path("read_only"), supervoxel_dir=Path("mine"), supervoxel_min_vox=300)
    assert layout.supervoxel_path(3) == Path("mine/supervoxels_300/superpix-MIDDLE_3.nii.gz")
    assert layout.image_path(3) == Path("read_only/chaos_MR_T2_normalized/image_3.nii.gz")


def test_scans_are_ordered_by_number_and_other_files_passed_over(tmp_path):
    layout = _layout(tmp_path)
    layout.volumes_dir.mkdir()
    for name in ("image_10", "image_9", "image_0", "label_4", "image_x", "my_image_5", "image_6_old"):
        (layout.volumes_dir / f"{name}.nii.gz").touch()
    (layout.volumes_dir / "image_7.nii").touch()
    (layout.volumes_dir / ".image_8.nii.gz.abc.tmp.nii.gz").touch()
    assert layout.scan_ids() == [0, 9, 10]


def test_a_missing_folder_is_named_with_the_key_to_set(tmp_path):
    with pytest.raises(UserError) as caught:
        _layout(tmp_path / "gone", "SABS").scan_ids()
    assert str(caught.value) == (
        f"{tmp_path}/gone/sabs_CT_normalized: no such folder; put the prepared SABS volumes there or set "
        "path.SABS.data_dir"
    )


def test_a_folder_without_images_is_refused(tmp_path):
    layout = _layout(tmp_path)
    layout.volumes_dir.mkdir()
    (layout.volumes_dir / "label_0.nii.gz").touch()
    with pytest.raises(UserError, match=r"normalized: holds no image_<id>\.nii\.gz; prepare CHAOST2 first"):
        layout.scan_ids()


def test_two_files_of_one_id_are_refused(tmp_path):
    layout = _layout(tmp_path)
    layout.volumes_dir.mkdir()
    for name in ("image_3", "image_03", "image_4"):
        (layout.volumes_dir / f"{name}.nii.gz").touch()
    with pytest.raises(UserError, match="several image files share the id 3; keep one"):
        layout.scan_ids()
