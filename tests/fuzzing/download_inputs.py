"""Valid downloads, custom datasets and configuration files, and what a user does with them."""

import json
import re
import struct
import sys
import zipfile
from pathlib import Path

import training
from data.custom_spec import read_dataset_json
from data.prepare.__main__ import main as prepare
from data.prepare.sources import open_source
from data.raw.finding import find_raw
from tests.data.raw.raw_sets import CUSTOM_JSON, write_chaos, write_custom_nnunet, write_mscmrseg
from tests.fuzzing.text_damages import digest_of
from util.config.command_line import run_command_line, run_guarded

_COLOUR = re.compile("\x1b\\[[0-9;]*m")
CONFIG = {"n_steps": 7, "optim": {"lr": 0.5, "name": "adamw"}, "model": {"encoder": "resnet18"}, "setting": 1}


def make_zip(inputs: Path) -> None:
    """Write MS-CMRSeg as a zip file."""
    folder = inputs.parent / "to_pack"
    write_mscmrseg(folder, n_scans=2)
    with zipfile.ZipFile(inputs / "cmr.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.nii.gz")):
            archive.write(path, path.relative_to(folder))


def make_dicom(inputs: Path) -> None:
    """Write a CHAOS scan."""
    write_chaos(inputs / "raw", n_scans=2)


def make_own(inputs: Path) -> None:
    """Write a custom dataset."""
    write_custom_nnunet(inputs / "raw", n_scans=2)


def make_config(inputs: Path) -> None:
    """Write a configuration file in JSON."""
    (inputs / "config.json").write_text(json.dumps(CONFIG, indent=1))


def _check_and_read(dataset, raw, inputs):
    """Let the command check a download, then read all of its scans."""
    words = (
        f"dataset={dataset}",
        f"raw={raw}",
        f"data_dir={inputs.parent}/prepared",
        "num_workers=1",
        "--check",
    )
    code = prepare(words)
    if code:
        return code, ""
    results = []

    def read():
        with open_source(raw, beside=inputs.parent / "prepared") as source:
            dataset_found = find_raw(dataset, source.folder)
            for scan in dataset_found.scans:
                volume = dataset_found.read(scan)
                results.append(f"{digest_of(volume.image)} {digest_of(volume.label_map)} {volume.geometry}")

    return run_guarded(read), "\n".join(results)


def check_zip(inputs: Path) -> tuple[int, str]:
    """Check the zip file, and read what it holds."""
    return _check_and_read("CMR", inputs / "cmr.zip", inputs)


def check_dicom(inputs: Path) -> tuple[int, str]:
    """Check the DICOM series and PNG files, and read them."""
    return _check_and_read("CHAOST2", inputs / "raw", inputs)


def check_own(inputs: Path) -> tuple[int, str]:
    """Check the custom dataset, and read it."""
    return _check_and_read("Hips", inputs / "raw", inputs)


def check_description(inputs: Path) -> tuple[int, str]:
    """Check the custom dataset, and say what the description says."""
    code = _check_and_read("Hips", inputs / "raw", inputs)[0]
    if code:
        return code, ""
    own = read_dataset_json(inputs / "raw/dataset.json")
    results = {
        "labels": {organ: label for label, organ in own.spec.labels.items()},
        "spacing_mm": own.preparation.spacing_mm,
        "size_px": own.preparation.size_px,
        "clip": own.preparation.clip_percentile or own.preparation.window,
        "supervoxel_min_size_vox": own.spec.supervoxel_min_vox,
        "test_labels": own.spec.test_labels,
    }
    return 0, json.dumps(results, sort_keys=True)


def description_as_written(content: bytes) -> str:
    """Read a `dataset.json` as its words stand, with the defaults that docs/data.md gives."""
    try:
        values = json.loads(content)
        labels = {organ: label for organ, label in values["labels"].items() if label != 0}
        ids = dict(labels)
        tested = values.get("test_labels", sorted(labels.values()))
        clip = values.get("clip") or {}
        results = {
            "labels": labels,
            "spacing_mm": values.get("spacing_mm"),
            "size_px": values.get("size_px"),
            "clip": clip.get("percentile") or clip.get("window"),
            "supervoxel_min_size_vox": values.get("supervoxel_min_size_vox", 5000),
            "test_labels": [ids.get(label, label) for label in tested],
        }
        return json.dumps(results, sort_keys=True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "nothing that can be read"


def print_config(inputs: Path) -> tuple[int, str]:
    """Print the configuration that a file leads to."""
    code = run_command_line(
        training.experiment, ["print_config", "with", "dataset=PHANTOM", f"{inputs}/config.json"]
    )
    if code:
        return code, ""
    sys.stdout.flush()
    printed = Path("stdout.txt").read_text(encoding="utf-8")
    lines = {line.split("#")[0].strip() for line in _COLOUR.sub("", printed).splitlines()}
    return 0, _lines_of(CONFIG, lines)


def _lines_of(values, lines):
    """List which of the keys in CONFIG were printed with which value."""
    results = []
    for key, value in values.items():
        if isinstance(value, dict):
            results.append(_lines_of(value, lines))
        else:
            results += sorted(line for line in lines if line.startswith(f"{key} = "))
    return "\n".join(results)


def config_as_written(content: bytes) -> str:
    """Say what print_config must print of a file's words."""
    try:
        values = json.loads(content)
        defaults = {"n_steps": 2000, "optim": {"lr": 0.003, "name": "sgd"}, "model": {"encoder": "resnet18"}}
        lines = []
        for key, default in {**defaults, "setting": 1}.items():
            value = values.get(key, default)
            if isinstance(default, dict):
                lines += [f"{name} = {value.get(name, of_name)!r}" for name, of_name in default.items()]
            else:
                lines.append(f"{key} = {value!r}")
        return "\n".join(lines)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "nothing that can be read"


def custom_json() -> dict:
    """Return the keys of the description."""
    return dict(CUSTOM_JSON)


def claim_a_size_in_png(content, rng):
    """Claim a picture of 60,000 by 60,000 pixels, with the right checksum."""
    import zlib

    changed = bytearray(content)
    struct.pack_into(">II", changed, 16, 60_000, int(rng.choice([60_000, 0, 1])))
    struct.pack_into(">I", changed, 29, zlib.crc32(bytes(changed[12:29])))
    return bytes(changed)


def claim_rows_in_dicom(content, rng):
    """Claim other rows or columns than there are."""
    tag = bytes.fromhex(["28001000", "28001100"][int(rng.integers(2))])
    offset = content.find(tag)
    changed = bytearray(content)
    struct.pack_into("<H", changed, offset + 8, int(rng.choice([0, 1, 65535, 20000])))
    return bytes(changed)
