"""Damage zip downloads whose directory can be read: lies about sizes, bombs, names that lead elsewhere."""

import io
import stat
import struct
import warnings
import zipfile


def _rewritten(content, *, members=(), links=()):
    file = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        warnings.simplefilter("ignore")  # of names that stand twice
        for entry in old.infolist():
            new.writestr(entry, old.read(entry))
        for name, member in members:
            new.writestr(name, member)
        for name in links:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            new.writestr(entry, "/etc/passwd")
    return file.getvalue()


def lie_about_a_size(content, rng):
    """Write another size of a member, packed or unpacked, into the directory."""
    offsets = []
    offset = content.find(b"PK\1\2")
    while offset >= 0:
        offsets.append(offset)
        offset = content.find(b"PK\1\2", offset + 4)
    changed = bytearray(content)
    offset = offsets[int(rng.integers(len(offsets)))] + int(rng.choice([20, 24]))
    struct.pack_into("<I", changed, offset, int(rng.choice([0, 1, 1 << 20, 0x7FFFFFFF, 0xFFFFFFF0])))
    return bytes(changed)


def pack_a_bomb(content, rng):
    """Add members of 300 MiB of zeros, and lie about their size in the directory."""
    bomb = _rewritten(content, members=[("Train/bomb.bin", bytes(300 << 20))])
    changed = bytearray(bomb)
    if rng.random() < 0.7:
        struct.pack_into("<I", changed, changed.rindex(b"PK\1\2") + 24, int(rng.choice([0, 100, 0xFFFFFFF0])))
    return bytes(changed)


def lead_elsewhere(content, rng):
    """Add names that lead out of the folder, collide, or are links."""
    names = ["../out.txt", "/tmp/fuzz_out.txt", "a/../../out.txt", "C:\\out.txt", "..\\out.txt", "a/./b"]
    name = names[int(rng.integers(len(names)))]
    choice = int(rng.integers(3))
    if choice == 0:
        return _rewritten(content, links=["link"])
    if choice == 1:
        with zipfile.ZipFile(io.BytesIO(content)) as old:
            name = old.namelist()[0]
    return _rewritten(content, members=[(name, b"out")])


def flip_a_flag(content, rng):
    """Write another method or flag of a member, encryption among them."""
    changed = bytearray(content)
    offset = content.rindex(b"PK\1\2") + int(rng.choice([8, 10]))
    struct.pack_into("<H", changed, offset, int(rng.choice([1, 9, 12, 14, 97, 0x0800, 0xFFFF])))
    return bytes(changed)


ARCHIVES = {
    "sizes": lie_about_a_size,
    "zip bomb": pack_a_bomb,
    "names": lead_elsewhere,
    "flags": flip_a_flag,
}
