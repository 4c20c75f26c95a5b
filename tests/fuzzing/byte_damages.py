"""Damage bytes without knowing what they mean.

A damage takes a file's bytes and a generator, and returns other bytes.
"""

import gzip
import struct
import zlib
from collections.abc import Callable

import numpy as np

Damage = Callable[[bytes, np.random.Generator], bytes]


def flip_bits(content, rng, *, n_bits=1, first=0, last=None):
    """Flip some bits between two places."""
    changed = bytearray(content)
    end = min(len(content), len(content) if last is None else last)
    for _ in range(n_bits if end > first else 0):
        changed[int(rng.integers(first, end))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def flip_many_bits(content, rng):
    """Flip two to fifty bits."""
    return flip_bits(content, rng, n_bits=int(rng.integers(2, 51)))


def cut(content, rng):
    """Cut off the end, or all but a few bytes."""
    return content[: int(rng.integers(0, len(content)))] if rng.random() < 0.8 else content[:-1]


def fill_with_zeros(content, rng):
    """Put zeros in the place of a block, as a disk does that lost one."""
    start = int(rng.integers(0, len(content)))
    length = int(rng.choice([1, 16, 512, 4096]))
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def extend(content, rng):
    """Add zeros, noise or the file itself at the end."""
    n_bytes = int(rng.integers(1, 5000))
    return content + [bytes(n_bytes), rng.bytes(n_bytes), content][int(rng.integers(3))]


def replace_whole(content, rng):
    """Put something else in the file's place."""
    others = [
        b"",
        b"\0",
        b"<!DOCTYPE html><html>log in</html>",
        rng.bytes(len(content)),
        gzip.compress(content),
    ]
    return others[int(rng.integers(len(others)))]


def move_block(content, rng):
    """Copy a block over another place."""
    length = int(rng.integers(1, 1 + max(1, len(content) // 4)))
    source, target = (int(position) for position in rng.integers(0, len(content), 2))
    block = content[source : source + length]
    return content[:target] + block + content[target + len(block) :]


BYTES: dict[str, Damage] = {
    "one bit": flip_bits,
    "many bits": flip_many_bits,
    "cut off": cut,
    "zeros": fill_with_zeros,
    "longer": extend,
    "another file": replace_whole,
    "moved block": move_block,
}


def zero_bomb(start, n_mib):
    """Pack a beginning and many MiB of zeros with gzip; one packed MiB is repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    packed = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    packed += (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)) * n_mib
    checksum = zlib.crc32(start)
    for _ in range(n_mib):
        checksum = zlib.crc32(block, checksum)
    length = (len(start) + (n_mib << 20)) & 0xFFFFFFFF
    head = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255])
    return head + packed + packer.flush() + struct.pack("<II", checksum, length)
