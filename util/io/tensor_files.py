"""Write tensor files atomically, and verify them before loading.

PyTorch verifies no checksums, so that a flipped bit goes unnoticed, and lets a pickle call functions that may
allocate any amount of memory, such as `bytearray`.
"""

import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from util.errors import UserError
from util.io.files import atomic_write

_BLOCK_BYTES = 1 << 20
# Start of a file of PyTorch before 1.6, which has no checksums: the pickled magic number.
_LEGACY_START = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
_GLOBAL_OPCODES = {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
_LEGACY_PICKLES = 5  # magic number, version, machine, content, storage keys
# Sufficient for dictionaries of tensors and plain values; none allocates more than the file holds.
_ELEMENT_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_ALLOWED = {
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch.nn.parameter Parameter",
    *(f"torch {name}" for name in _ELEMENT_BYTES),
}


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically.

    Raises `UserError` if the disk is full or not writable; an existing file is unchanged then.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # raised by the zip writer on a full disk
            raise UserError(f"{path}: cannot be written ({first_line(error)}); is the disk full?") from error


def read_tensors(path: Path, *, kind: str) -> Any:
    """Load a file of `write_tensors` on the CPU, without executing code.

    Args:
        path: the file.
        kind: its name in messages.

    Raises:
        UserError: the file is missing or damaged.
    """
    check_archive(path, kind=kind)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage raises errors of many types
        raise _damaged(path, kind, first_line(error)) from error


def check_archive(path: Path, *, kind: str, legacy: bool = False) -> None:
    """Verify the integrity of a PyTorch file before it is loaded.

    Every member must be stored uncompressed, once, within the file and with a valid checksum; the pickle may
    reference only tensors and plain containers. It takes 1 MiB of memory, and the time to read the file.

    Args:
        path: the file.
        kind: its name in messages, such as "snapshot".
        legacy: allow the format of PyTorch before 1.6, whose numbers have no checksums; only its pickles are
            checked.

    Raises:
        UserError: the file is missing, damaged, or references anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {kind}")
    try:
        with path.open("rb") as file:
            if legacy and file.read(len(_LEGACY_START)) == _LEGACY_START:
                _check_legacy(file)
            else:
                _check_zip(file, size=path.stat().st_size)
    except zipfile.BadZipFile as error:
        reason = "truncated, or older than PyTorch 1.6"
        if "not a zip" not in str(error):
            reason = f"{first_line(error)}, or saved without checksums"
        raise _damaged(path, kind, reason) from error
    except Exception as error:  # damage raises errors of many types
        raise _damaged(path, kind, first_line(error)) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's text advises to load it anyway
        return "it holds more than plain tensors"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _damaged(path: Path, kind: str, reason: str) -> UserError:
    return UserError(f"{path}: is damaged or not a {kind} ({reason}); use another {kind}")


def _check_legacy(file: BinaryIO) -> None:
    file.seek(0)
    for _ in range(_LEGACY_PICKLES):
        _check_pickle(file)


def _check_zip(file: BinaryIO, *, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("duplicate members")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise ValueError("compressed members")
        if sum(member.file_size for member in members.values()) > size:
            raise ValueError("members larger than the file")
        folders = {name.split("/")[0] for name in members}
        content = members.get(f"{min(folders, default='')}/data.pkl")
        if len(folders) > 1 or content is None:
            raise ValueError("not a single archive of tensors")
        for member in members.values():
            _check_member(archive, member)
        with archive.open(content) as stream:
            _check_pickle(stream)
        with archive.open(content) as stream:
            sizes = _StorageSizes(stream, encoding="bytes")
            sizes.load()
    for key, length in sizes.n_bytes:
        record = members.get(f"{content.filename.removesuffix('data.pkl')}data/{key}")
        if record is None or record.file_size != length:
            raise ValueError(f"storage {key} has a wrong length")


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Verify a member's length, and its checksum by reading it with `zipfile`."""
    with archive.open(member) as stream:
        length = sum(map(len, _blocks(stream)))
    if length != member.file_size:
        raise ValueError(f"{member.filename} is truncated")


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: stream.read(_BLOCK_BYTES), b"")


def _check_pickle(stream: BinaryIO) -> None:
    """Check a pickle's opcodes without executing them."""
    for position, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        if instruction.name in _GLOBAL_OPCODES and argument not in _ALLOWED:
            raise pickle.UnpicklingError
        # The memo is as large as its highest index.
        if instruction.name == "LONG_BINPUT" and argument > position:
            raise ValueError("invalid memo index")


class _Inert:
    """Inert stand-in for everything that a pickle references."""

    def __init__(self, *_: Any) -> None:
        pass


class _StorageSizes(pickle.Unpickler):
    """Load a checked pickle with inert values, and collect the storage sizes that it claims.

    Older versions of PyTorch trust these sizes, and read beyond the storage.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.n_bytes: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" == "collections OrderedDict":
            return OrderedDict
        return _ELEMENT_BYTES.get(name, _Inert)

    def persistent_load(self, pid: Any) -> None:
        _, element_bytes, key, _, length = pid
        if not (isinstance(key, str) and isinstance(element_bytes, int) and isinstance(length, int)):
            raise ValueError("storage without a length")
        self.n_bytes.append((key, element_bytes * length))
