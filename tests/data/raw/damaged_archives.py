"""Zip files that are damaged: `(name, set, damage, words of the one line)`."""

import struct
import warnings
import zipfile


def zip_folder(folder):
    """Pack a folder beside it, and return the archive."""
    archive = folder.parent / "download.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))
    return archive


def _with_entry(name, content):
    """Add an entry to a good archive."""

    def damage(folder, written):
        archive = zip_folder(folder)
        with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as packed, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name that is there already
            packed.writestr(name, content)
        return archive

    return damage


def _bytes(do):
    """Change the bytes of a good archive."""

    def damage(folder, written):
        archive = zip_folder(folder)
        archive.write_bytes(do(archive.read_bytes()))
        return archive

    return damage


def _encrypted(content):
    """Set the flag in every header; its place differs between the local ones and the directory."""
    raw = bytearray(content)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = raw.find(signature)
        while at >= 0:
            raw[at + offset] |= 1
            at = raw.find(signature, at + 4)
    return bytes(raw)


def _flipped_content(content):
    raw = bytearray(content)
    raw[len(raw) // 3] ^= 0x40
    return bytes(raw)


def _lying_size(folder, written):
    """Let the directory tell of 10 bytes where 5 million are packed."""
    archive = _with_entry("big.bin", bytes(5_000_000))(folder, written)
    raw = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = raw.rfind(signature)
        struct.pack_into("<I", raw, at + offset, 10)
    archive.write_bytes(bytes(raw))
    return archive


def _file_and_folder(folder, written):
    return _with_entry("imagesTr", b"a file where a folder must be")(folder, written)


ARCHIVES = [
    ("zip: size that is a lie", "Hips", _lying_size, r"download\.zip: must be a whole zip file"),
    ("zip: encrypted", "Hips", _bytes(_encrypted), r"is encrypted"),
    ("zip: name twice", "Hips", _with_entry("dataset.json", b"{}"), r"holds 'dataset\.json' 2 times"),
    (
        "zip: cut off",
        "Hips",
        _bytes(lambda content: content[: len(content) // 2]),
        r"must be a whole zip file",
    ),
    ("zip: flipped bit", "Hips", _bytes(_flipped_content), r"must be a whole zip file"),
    (
        "zip: no zip",
        "Hips",
        _bytes(lambda content: b"<html>please log in</html>"),
        r"must be a whole zip file",
    ),
    ("zip: empty file", "Hips", _bytes(lambda content: b""), r"must be a whole zip file"),
    (
        "zip: file over a folder",
        "Hips",
        _file_and_folder,
        r"download\.zip: cannot be unpacked into .* \(Is a directory\)",
    ),
    (
        "zip: other data inside",
        "CHAOST2",
        lambda folder, written: _nothing_of_chaos(folder),
        r"must hold CHAOS's MR/<id>/T2SPIR",
    ),
]


def _nothing_of_chaos(folder):
    archive = folder.parent / "download.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("readme.txt", b"nothing here")
    return archive
