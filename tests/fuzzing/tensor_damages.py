"""Damage PyTorch's files: their zip, their pickle, and the values in it."""

import copy
import io
import pickle
import warnings
import zipfile

import numpy as np
import torch

CANARY = "canary"  # the file, in the folder of a try, that code in an input would make


class Trap:
    """Makes a file when it is unpickled without care."""

    def __reduce__(self):
        return open, (CANARY, "w")


def _members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def _archive(members, *, compression=zipfile.ZIP_STORED, twice=None):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name that stands twice
        for name, member in members.items():
            archive.writestr(name, member)
        if twice is not None:
            archive.writestr(twice, members[twice][::-1])
    return file.getvalue()


def _saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _loaded(content):
    return torch.load(io.BytesIO(content), weights_only=True)


def flip_in_numbers(content, rng):
    """Flip a bit of a tensor's numbers, and of nothing else."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = [entry for entry in archive.infolist() if "/data/" in entry.filename and entry.file_size]
    entry = records[int(rng.integers(len(records)))]
    offset = content.index(entry.filename.encode(), entry.header_offset) + len(entry.filename) + 64
    offset = min(offset + int(rng.integers(entry.file_size)), entry.header_offset + 128 + entry.file_size)
    changed = bytearray(content)
    changed[offset] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def rewrite_archive(content, rng):
    """Compress the members, put one there twice, leave one out, or claim another size of one."""
    members = _members(content)
    names = list(members)
    name = names[int(rng.integers(len(names)))]
    choice = int(rng.integers(4))
    if choice == 0:
        return _archive(members, compression=zipfile.ZIP_DEFLATED)
    if choice == 1:
        return _archive(members, twice=name)
    if choice == 2:
        return _archive({n: member for n, member in members.items() if "/data" not in n or n != name})
    changed = bytearray(_archive(members))
    offset = changed.rindex(b"PK\1\2")  # the last entry of the directory
    changed[offset + 24 : offset + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    return bytes(changed)


def pack_a_bomb(content, rng):
    """Put a compressed tensor of 300 MiB among the numbers."""
    return _archive(
        {**_members(content), "archive/data/99999": bytes(300 << 20)}, compression=zipfile.ZIP_DEFLATED
    )


def hide_code(content, rng):
    """Put code into the pickle, in one of PyTorch's forms or another."""
    value = _loaded(content)
    form = int(rng.integers(4))
    if form == 0:
        return _saved({**value, "config": Trap()})
    if form == 1:
        return _saved(Trap())
    if form == 2:
        return pickle.dumps(Trap(), protocol=int(rng.integers(0, 5)))
    file = io.BytesIO()
    torch.save({**value, "more": [Trap()]}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def claim_much(content, rng):
    """Let the pickle ask for memory: bytes by the billion, or a tensor longer than its numbers."""
    members = _members(content)
    name = next(name for name in members if name.endswith("data.pkl"))
    if rng.random() < 0.5:
        members[name] = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    else:
        members[name] = members[name].replace(b"q\x01", b"r\xf0\xff\xff\x7f", 1)
    return _archive(members)


def _spoiled(tensor, rng):
    """Make something of a tensor that must not pass for it."""
    stretched = torch.zeros(1).expand(1 << 20, 1 << 16)
    with_nan = tensor.clone().float()
    with_nan.view(-1)[:1] = float(rng.choice([np.nan, np.inf, -np.inf]))
    choices = [
        stretched,
        with_nan,
        tensor.double() + 0.5,
        tensor.to(torch.int32) + 1,
        tensor.to(torch.complex64),
        torch.zeros(3, 5, 7, 9),
        tensor.float().to_sparse(),
        torch.zeros(0),
        "a text",
        None,
        7,
    ]
    return choices[int(rng.integers(len(choices)))]


_CONFUSING = ("7", -1, True, 1.5, None, [], {}, [[1]], float("nan"), 10**30, {"a": {}}, torch.ones(2))


def spoil_a_value(content, rng):
    """Put another type or a missing value anywhere in what the file holds; a tensor may be spoiled."""
    value = _loaded(content)
    container, below = value, list(value) if isinstance(value, dict) else []
    while below:
        key = below[int(rng.integers(len(below)))]
        inner = container[key]
        if isinstance(inner, dict | list) and len(inner) and rng.random() < 0.75:
            container = inner
            below = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            continue
        if isinstance(inner, torch.Tensor):
            container[key] = _spoiled(inner, rng)
        elif isinstance(inner, float) or key == "config":
            container[key] = [_CONFUSING[0], {"deep": _nested(2000)}][int(rng.integers(2))]
        elif not isinstance(inner, int | str) or rng.random() < 0.8:
            others = [other for other in _CONFUSING if type(other) is not type(inner)]
            container[key] = copy.deepcopy(others[int(rng.integers(len(others)))])
        elif isinstance(container, dict):
            del container[key]
        break
    try:
        return _saved(value)
    except RecursionError:
        return _saved(Trap())


def _nested(depth):
    value = []
    for _ in range(min(depth, 300)):
        value = [value]
    return value


TENSORS = {
    "bit of a number": flip_in_numbers,
    "archive": rewrite_archive,
    "zip bomb": pack_a_bomb,
    "code": hide_code,
    "claims": claim_much,
    "value": spoil_a_value,
    "value again": spoil_a_value,
}
