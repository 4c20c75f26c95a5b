"""Ways to damage a CHAOS train set: `(name, set, damage, words of the one line)`."""

import shutil
import struct

import cv2
import numpy as np
import SimpleITK as sitk

from tests.data.raw.raw_sets import write_png, write_slice

_AT = 2  # the slice of scan 1 that is damaged


def _dicom(do):
    """Let a damage change one DICOM file's bytes."""

    def damage(folder, written):
        path = written[0].image_files[_AT]
        path.write_bytes(do(path.read_bytes()))

    return damage


def _png(do):
    """Let a damage change one PNG file's bytes."""

    def damage(folder, written):
        path = written[0].label_files[_AT]
        path.write_bytes(do(path.read_bytes()))

    return damage


def _position(scan, at):
    """Give the place of an axial slice's first pixel."""
    return np.add(scan.geometry.origin_mm, (0, 0, at * scan.geometry.spacing_mm[0]))


def _rewritten(**changes):
    """Write one slice again with other pixels or another place."""

    def damage(folder, written):
        scan = written[0]
        values = {
            "pixels": scan.image[_AT],
            "position_mm": _position(scan, _AT),
            "orientation": (1, 0, 0, 0, 1, 0),
            "spacing_mm": scan.geometry.spacing_mm,
            "series": "1.2.826.0.1.1",
        } | changes
        write_slice(scan.image_files[_AT], values.pop("pixels"), **values)

    return damage


def _moved(*offsets_mm):
    """Move some slices' places, `(slice, (x, y, z))` each."""

    def damage(folder, written):
        scan = written[0]
        for at, offset in offsets_mm:
            write_slice(
                scan.image_files[at],
                scan.image[at],
                position_mm=_position(scan, at) + np.array(offset),
                orientation=(1, 0, 0, 0, 1, 0),
                spacing_mm=scan.geometry.spacing_mm,
                series="1.2.826.0.1.1",
            )

    return damage


def _removed(*, images=(), labels=()):
    def damage(folder, written):
        for path in (
            *(written[0].image_files[at] for at in images),
            *(written[0].label_files[at] for at in labels),
        ):
            path.unlink()

    return damage


def _retagged(old, new, *, everywhere=False):
    """Replace bytes of a header by as many others, in one file or in all of the scan."""

    def damage(folder, written):
        for path in written[0].image_files if everywhere else [written[0].image_files[_AT]]:
            content = path.read_bytes()
            if content.count(old) != 1 or len(old) != len(new):
                raise ValueError(f"{old!r} cannot be replaced")
            path.write_bytes(content.replace(old, new))

    return damage


def _several_frames(folder, written):
    frames = sitk.GetImageFromArray(np.zeros((2, 36, 44), np.uint8))
    sitk.WriteImage(frames, str(written[0].image_files[_AT]))


def _coloured_slice(folder, written):
    sitk.WriteImage(
        sitk.GetImageFromArray(np.zeros((36, 44, 3), np.uint8), isVector=True),
        str(written[0].image_files[_AT]),
    )


def _slice_of_other_scan(folder, written):
    for kind in ("image_files", "label_files"):
        path = getattr(written[1], kind)[0]
        shutil.copy(path, getattr(written[0], kind)[0].with_name(f"other{path.suffix}"))


def _copied_slice(folder, written):
    for path in (written[0].image_files[_AT], written[0].label_files[_AT]):
        shutil.copy(path, path.with_name(f"copy{path.suffix}"))


def _all_slices_equal(folder, written):
    scan = written[0]
    for at, path in enumerate(scan.image_files):
        write_slice(
            path,
            np.full(scan.image.shape[1:], 7),
            position_mm=_position(scan, at),
            orientation=(1, 0, 0, 0, 1, 0),
            spacing_mm=scan.geometry.spacing_mm,
            series="1.2.826.0.1.1",
        )


def _no_organs(folder, written):
    for path in written[0].label_files:
        write_png(path, np.zeros((36, 44), np.uint8))


def _case(folder, name):
    return folder / "Train_Sets" / "MR" / name


def _pixels(do):
    """Let a damage change one PNG's grey levels."""

    def damage(folder, written):
        path = written[0].label_files[_AT]
        write_png(path, do(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))

    return damage


def _one_bit(folder, written):
    path = written[0].label_files[_AT]
    liver = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 63).astype(np.uint8)
    cv2.imwrite(str(path), 255 * liver, [cv2.IMWRITE_PNG_BILEVEL, 1])


def _with_level(levels):
    levels[3, 4] = 90
    return levels


def _coloured(levels):
    return np.stack([levels, levels, np.roll(levels, 1)], axis=-1)


def _wrong_checksum(content):
    workspace = content.index(b"IDAT") + 6
    return content[:workspace] + bytes([content[workspace] ^ 0xFF]) + content[workspace + 1 :]


_POSITION, _SPACING = struct.pack("<HH", 0x0020, 0x0032), struct.pack("<HH", 0x0028, 0x0030)
_INSTEAD_OF_POSITION, _INSTEAD_OF_SPACING = (
    struct.pack("<HH", 0x0020, 0x0033),
    struct.pack("<HH", 0x0028, 0x0031),
)

DICOM = [
    (
        "DICOM cut off",
        "CHAOST2",
        _dicom(lambda content: content[:-500]),
        r"IMG-0004-00004\.dcm: must be a DICOM file",
    ),
    (
        "DICOM cut off in its header",
        "CHAOST2",
        _dicom(lambda content: content[:300]),
        r"00004\.dcm: must be a DICOM",
    ),
    ("DICOM empty", "CHAOST2", _dicom(lambda content: b""), r"00004\.dcm: .* got an empty one"),
    (
        "DICOM of wrong magic",
        "CHAOST2",
        _dicom(lambda content: content[:128] + b"MCID" + content[132:]),
        r"00004\.dcm: must be a DICOM file, cannot be read as one",
    ),
    (
        "DICOM slice missing, with its PNG",
        "CHAOST2",
        _removed(images=[_AT], labels=[_AT]),
        r"00005\.dcm and IMG-0004-00003\.dcm: .* 8\.00 mm apart as most are, got 16\.00 mm; restore",
    ),
    (
        "DICOM slice missing, its PNG there",
        "CHAOST2",
        _removed(images=[_AT]),
        r"none for IMG-0004-00004\.png",
    ),
    (
        "all DICOM slices missing",
        "CHAOST2",
        _removed(images=range(6)),
        r"MR/1: must hold T2SPIR/DICOM_anon/\*\.dcm, got ground truth alone",
    ),
    (
        "a single slice left",
        "CHAOST2",
        _removed(images=range(1, 6), labels=range(1, 6)),
        r"1/T2SPIR: must hold at least 2 DICOM slices, got 1",
    ),
    (
        "slice of another scan",
        "CHAOST2",
        _slice_of_other_scan,
        r"other\.dcm: all slices must have the same series",
    ),
    (
        "slice of another series",
        "CHAOST2",
        _rewritten(series="1.2.3.4"),
        r"00004\.dcm: .* same series, 1\.2\.826\.0\.1\.1 for most, got 1\.2\.3\.4; keep one series",
    ),
    (
        "slice of another size",
        "CHAOST2",
        _rewritten(pixels=np.ones((36, 40))),
        r"00004\.dcm: .* same size, \(36, 44\) for most, got \(36, 40\)",
    ),
    (
        "slice of another pixel spacing",
        "CHAOST2",
        _rewritten(spacing_mm=(8.0, 2.6, 2.0)),
        r"00004\.dcm: .* same pixel spacing \(mm\), \(2\.5, 2\.0\) for most, got \(2\.6, 2\.0\)",
    ),
    (
        "slice of another orientation",
        "CHAOST2",
        _rewritten(orientation=(0, 1, 0, 1, 0, 0)),
        r"00004\.dcm: .* same orientation, \(1\.0, .* got \(0\.0, 1\.0",
    ),
    (
        "slice copied under another name",
        "CHAOST2",
        _copied_slice,
        r"differ in position, got the same; keep one",
    ),
    (
        "slice 1 mm off along the stack",
        "CHAOST2",
        _moved((5, (0, 0, 1.0))),
        r"00002\.dcm and IMG-0004-00001\.dcm: .* got 9\.00 mm",
    ),
    (
        "slices shifted sideways (tilted gantry)",
        "CHAOST2",
        _moved(*((at, (0, 2.0 * at, 0)) for at in range(6))),
        r"stacked along their normal, got 2\.00 mm sideways",
    ),
    (
        "DICOM without ImagePositionPatient",
        "CHAOST2",
        _retagged(_POSITION + b"\x10\0", _INSTEAD_OF_POSITION + b"\x10\0"),
        r"00004\.dcm: tag ImagePositionPatient must hold 3 numbers, got ''",
    ),
    (
        "DICOM without PixelSpacing",
        "CHAOST2",
        _retagged(_SPACING + b"\x06\0", _INSTEAD_OF_SPACING + b"\x06\0"),
        r"00004\.dcm: tag PixelSpacing must hold 2 numbers, got ''",
    ),
    (
        "DICOM with a position that is no number",
        "CHAOST2",
        _retagged(rb"-41\-52.5", rb"-41\-52,5"),
        r"00004\.dcm: tag ImagePositionPatient must hold 3 numbers, got '-41\\-52,5",
    ),
    (
        "DICOM with skew directions",
        "CHAOST2",
        _retagged(rb"1\0\0\0\1\0", rb"1\1\0\0\1\0", everywhere=True),
        r"\.dcm: tag ImageOrientationPatient must hold two perpendicular directions of length 1",
    ),
    (
        "DICOM of several frames",
        "CHAOST2",
        _several_frames,
        r"00004\.dcm: must hold one slice of single values",
    ),
    (
        "DICOM in colour",
        "CHAOST2",
        _coloured_slice,
        r"00004\.dcm: must hold one slice .* 3 value\(s\) a pixel",
    ),
    ("constant DICOM images", "CHAOST2", _all_slices_equal, r"1/T2SPIR: voxels must differ, all are 7"),
    (
        "case twice, as 1 and 01",
        "CHAOST2",
        lambda folder, written: shutil.copytree(_case(folder, "1"), _case(folder, "01")) and None,
        r"MR/1: must be the only case 1, .*MR/01 is another; keep one",
    ),
    (
        "case folder that is no number",
        "CHAOST2",
        lambda folder, written: _case(folder, "2").rename(_case(folder, "two")) and None,
        r"MR/two: the case folder's name must be a number",
    ),
    (
        "case folder without files",
        "CHAOST2",
        lambda folder, written: (_case(folder, "7") / "T2SPIR" / "Ground").mkdir(parents=True),
        r"MR/7: must hold T2SPIR/DICOM_anon/\*\.dcm and T2SPIR/Ground/\*\.png, got none",
    ),
]

PNG = [
    (
        "PNG missing",
        "CHAOST2",
        _removed(labels=[_AT]),
        r"same stem in Ground, found none for IMG-0004-00004\.dcm",
    ),
    (
        "all PNGs of a case missing",
        "CHAOST2",
        _removed(labels=range(6)),
        r"1/T2SPIR: .* found none for .* and 1 more",
    ),
    (
        "PNG of another size",
        "CHAOST2",
        _pixels(lambda levels: levels[:-1]),
        r"00004\.png: must have its DICOM file's rows and columns \(36, 44\), got \(35, 44\)",
    ),
    (
        "PNG turned (swapped axes)",
        "CHAOST2",
        _pixels(lambda levels: levels.T.copy()),
        r"00004\.png: .* \(36, 44\), got \(44, 36\)",
    ),
    (
        "PNG with an unknown grey level",
        "CHAOST2",
        _pixels(_with_level),
        r"00004\.png: label values must be among 0, 55-70, 110-135, 175-200, 240-255, got 90",
    ),
    (
        "PNG cut off",
        "CHAOST2",
        _png(lambda content: content[:-30]),
        r"00004\.png: must be a whole PNG file \(Truncated",
    ),
    (
        "PNG empty",
        "CHAOST2",
        _png(lambda content: b""),
        r"00004\.png: must be a whole PNG file \(cannot identify",
    ),
    (
        "PNG of wrong magic",
        "CHAOST2",
        _png(lambda content: b"GIF89a" + content),
        r"00004\.png: must be a whole PNG file \(cannot identify image file",
    ),
    (
        "PNG of wrong checksum",
        "CHAOST2",
        _png(_wrong_checksum),
        r"00004\.png: must be a whole PNG file \(broken PNG file \(bad header checksum",
    ),
    (
        "PNG of 1 bit",
        "CHAOST2",
        _one_bit,
        r"00004\.png: must have 8 bits a pixel, got 1 by its header",
    ),
    (
        "PNG of 16 bits",
        "CHAOST2",
        _pixels(lambda levels: levels.astype(np.uint16)),
        r"00004\.png: must have 8 bits a pixel, got 16 by its header",
    ),
    ("PNG in colour", "CHAOST2", _pixels(_coloured), r"00004\.png: must be a grey image, got a coloured one"),
    (
        "ground truth without any organ",
        "CHAOST2",
        _no_organs,
        r"1/T2SPIR: must hold at least one of 1 liver, 2 right kidney, .* got background only",
    ),
]
