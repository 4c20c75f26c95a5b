"""All kinds of files that a user may give, with their damages and what is done with them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.fuzzing import download_inputs, nifti_damages, phantom_inputs
from tests.fuzzing.archive_damages import ARCHIVES
from tests.fuzzing.byte_damages import BYTES, Damage, cut, extend, flip_bits, replace_whole
from tests.fuzzing.nifti_damages import HEADERS
from tests.fuzzing.tensor_damages import TENSORS
from tests.fuzzing.text_damages import TEXTS

Consume = Callable[[Path], tuple[int, str]]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: for the table.
        make: writes valid inputs into a folder.
        target: names the file to damage.
        damages: name -> damage.
        consume: does with the inputs what a user does; returns the exit code and what was found.
        end_to_end: the same by a whole training or evaluation, or None.
        share: of the tries that go end to end.
        weight: tries of this kind in a round.
        seconds: that a try may take.
        remade: patterns of files that the program makes anew by itself.
        accepted: further findings that are right, such as what an older file gives.
        as_written: for files that people write: what the damaged file's words say.
        several_lines: whether each problem has a separate line.
    """

    name: str
    make: Callable[[Path], None]
    target: Callable[[Path, np.random.Generator], Path]
    damages: Mapping[str, Damage]
    consume: Consume
    end_to_end: Consume | None = None
    share: float = 0.0
    weight: int = 2
    seconds: float = 30.0
    remade: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    as_written: Callable[[bytes], str] | None = field(default=None)
    several_lines: bool = False


def _at(name):
    return lambda inputs, rng: inputs / name


def _scan(kind):
    return lambda inputs, rng: phantom_inputs.scan_files(inputs, kind)


def _one_of(pattern):
    def target(inputs, rng):
        files = sorted(inputs.glob(pattern))
        return files[int(rng.integers(len(files)))]

    return target


def _swapped_header(content, rng):
    """Take the grid of another scan: one slice more."""
    import gzip
    import struct

    raw = bytearray(gzip.decompress(content))
    struct.pack_into("<h", raw, 46, struct.unpack_from("<h", raw, 46)[0] + 1)
    return nifti_damages.swap_header(gzip.compress(bytes(raw)))(content, rng)


_VOLUME = {**BYTES, **HEADERS, "swapped header": _swapped_header}
_LABELS = {**_VOLUME, "impossible ids": nifti_damages.put_impossible_ids}
_PICTURE = {**BYTES, "claimed size": download_inputs.claim_a_size_in_png}
# The pixels of DICOM and some words have no checksum: what is flipped there is another image.
_DICOM = {
    "one bit": lambda content, rng: flip_bits(content, rng, last=300),
    "cut off": cut,
    "longer": extend,
    "another file": replace_whole,
    "rows or columns": download_inputs.claim_rows_in_dicom,
}
_TEXT = {**BYTES, **TEXTS}
_TENSOR = {**BYTES, **TENSORS}
_REMADE = ("data/supervoxels_60/superpix-MIDDLE_1*",)

KINDS = (
    Kind(
        "image",
        phantom_inputs.make_phantom_inputs,
        _scan("image"),
        _VOLUME,
        phantom_inputs.load_volumes,
        end_to_end=phantom_inputs.train,
        share=0.1,
        weight=5,
        remade=_REMADE,
    ),
    Kind(
        "label map",
        phantom_inputs.make_trained_inputs,
        _scan("label"),
        _LABELS,
        phantom_inputs.load_volumes,
        end_to_end=phantom_inputs.evaluate,
        share=0.1,
        weight=4,
    ),
    Kind(
        "supervoxels",
        phantom_inputs.make_phantom_inputs,
        _scan("supervoxels"),
        _LABELS,
        phantom_inputs.generate_and_load,
        end_to_end=phantom_inputs.train,
        share=0.1,
        weight=3,
        remade=_REMADE,
    ),
    Kind(
        "others' supervoxels",
        phantom_inputs.make_foreign_inputs,
        _scan("supervoxels"),
        _LABELS,
        phantom_inputs.generate_and_load,
        weight=3,
    ),
    Kind(
        "supervoxel record",
        phantom_inputs.make_phantom_inputs,
        _scan("record"),
        _TEXT,
        phantom_inputs.generate_and_load,
        remade=_REMADE,
    ),
    Kind(
        "snapshot",
        phantom_inputs.make_small_snapshot,
        _at("snapshot.pt"),
        _TENSOR,
        phantom_inputs.load_small_snapshot,
        weight=5,
    ),
    Kind(
        "snapshot, evaluated",
        phantom_inputs.make_trained_inputs,
        _at("snapshot.pt"),
        _TENSOR,
        phantom_inputs.evaluate,
        weight=1,
    ),
    Kind(
        "checkpoint",
        phantom_inputs.make_small_checkpoints,
        _at("checkpoints/checkpoint_000003.pt"),
        _TENSOR,
        phantom_inputs.load_small_checkpoint,
        weight=4,
        accepted=("the one before",),
    ),
    Kind(
        "checkpoint, resumed",
        phantom_inputs.make_trained_inputs,
        _at("runs/PHANTOM/fold_0/training/1/checkpoints/checkpoint_000002.pt"),
        _TENSOR,
        phantom_inputs.resume,
        weight=1,
        remade=("runs/PHANTOM/fold_0/training/1/checkpoints/*",),
    ),
    Kind(
        "encoder weights",
        phantom_inputs.make_encoder_inputs,
        _at("encoder.pth"),
        _TENSOR,
        phantom_inputs.build_network,
        weight=3,
    ),
    Kind(
        "run's config.json",
        phantom_inputs.make_trained_inputs,
        _at("runs/PHANTOM/fold_0/training/1/config.json"),
        _TEXT,
        phantom_inputs.resume,
        weight=1,
        remade=("runs/PHANTOM/fold_0/training/1/checkpoints/*",),
    ),
    Kind(
        "fingerprint.json",
        phantom_inputs.make_phantom_inputs,
        _at("data/fingerprint.json"),
        _TEXT,
        phantom_inputs.look_up_hash,
    ),
    Kind(
        "phantom.json",
        phantom_inputs.make_phantom_inputs,
        _at("data/phantom.json"),
        _TEXT,
        phantom_inputs.make_volumes,
        weight=1,
        remade=("data/*.json", "data/phantom*/*"),
    ),
    Kind(
        "configuration file",
        download_inputs.make_config,
        _at("config.json"),
        _TEXT,
        download_inputs.print_config,
        weight=3,
        as_written=download_inputs.config_as_written,
    ),
    Kind(
        "dataset.json",
        download_inputs.make_own,
        _at("raw/dataset.json"),
        _TEXT,
        download_inputs.check_description,
        weight=3,
        as_written=download_inputs.description_as_written,
        several_lines=True,
    ),
    Kind(
        "zip download",
        download_inputs.make_zip,
        _at("cmr.zip"),
        {**BYTES, **ARCHIVES},
        download_inputs.check_zip,
        weight=3,
        several_lines=True,
    ),
    Kind(
        "DICOM download",
        download_inputs.make_dicom,
        _one_of("raw/**/T2SPIR/**/*.dcm"),
        _DICOM,
        download_inputs.check_dicom,
        weight=2,
        several_lines=True,
    ),
    Kind(
        "PNG download",
        download_inputs.make_dicom,
        _one_of("raw/**/Ground/*.png"),
        _PICTURE,
        download_inputs.check_dicom,
        weight=2,
        several_lines=True,
    ),
    Kind(
        "NIfTI download",
        download_inputs.make_own,
        _one_of("raw/images*/*.nii.gz"),
        _VOLUME,
        download_inputs.check_own,
        weight=2,
        several_lines=True,
    ),
    Kind(
        "NIfTI label download",
        download_inputs.make_own,
        _one_of("raw/labels*/*.nii.gz"),
        _LABELS,
        download_inputs.check_own,
        weight=2,
        several_lines=True,
    ),
)
ROUND = tuple(kind for kind in KINDS for _ in range(kind.weight))
