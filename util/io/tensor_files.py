"""Write files of tensors in one step, and check them before they are believed.

PyTorch itself compares no checksums, so a flipped bit would be read as another number, and it lets a pickle
call what may take any memory, such as `bytearray`.
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
from util.io.files import replaced_file

_BLOCK_BYTES = 1 << 20
# What begins a file of PyTorch before 1.6, which has no checksums: a pickle of its magic number.
_LEGACY_START = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
_NAMING = {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
_LEGACY_PICKLES = 5  # magic number, version, machine, content, names of the storages
# All that a dictionary of tensors and plain values needs; each makes no more than the file holds.
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
    """Write tensors and plain values in one step.

    Raises `UserError` when the disk is full or not writable; a file of before is untouched then.
    """
    with replaced_file(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what the zip writer makes of a full disk
            raise UserError(f"{path}: cannot be written ({first_line(error)}); is the disk full?") from error


def read_tensors(path: Path, *, what: str) -> Any:
    """Read what `write_tensors` wrote, onto the CPU.

    Nothing that the file may hold is run.

    Args:
        path: the file.
        what: the word for it in messages.

    Raises:
        UserError: the file is missing or damaged.
    """
    check_archive(path, what=what)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as errors of many kinds
        raise _damaged(path, what, first_line(error)) from error


def check_archive(path: Path, *, what: str, legacy: bool = False) -> None:
    """Prove that a file of PyTorch is as it was written, before it is loaded.

    Every member must be stored as it is, once, within the file and with the checksum that was written with
    it; and the pickle may name nothing but tensors and plain containers. It takes memory for a block of
    1 MiB, and time as for reading the file.

    Args:
        path: the file.
        what: the word for it in messages, such as "snapshot".
        legacy: allow the form of PyTorch before 1.6, whose numbers have no checksums; of it the pickles
            alone are looked at.

    Raises:
        UserError: the file is missing, damaged, or holds what no such file needs.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {what}")
    try:
        with path.open("rb") as file:
            if legacy and file.read(len(_LEGACY_START)) == _LEGACY_START:
                file.seek(0)
                for _ in range(_LEGACY_PICKLES):
                    _check_pickle(file)
            else:
                _check_zip(file, size=path.stat().st_size)
    except zipfile.BadZipFile as error:
        reason = "cut off, or not of PyTorch 1.6 or later"
        if "not a zip" not in str(error):
            reason = f"{first_line(error)}, or it was saved without checksums"
        raise _damaged(path, what, reason) from error
    except Exception as error:  # damage shows as errors of many kinds
        raise _damaged(path, what, first_line(error)) from error


def first_line(error: Exception) -> str:
    """Return the telling line of an error, for a message of one line."""
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's text advises to load it all the same
        return "it holds more than plain tensors"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _damaged(path: Path, what: str, reason: str) -> UserError:
    return UserError(f"{path}: is damaged or not a {what} ({reason}); use another {what}")


def _check_zip(file: BinaryIO, *, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two parts of one name")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise ValueError("compressed parts")
        if sum(member.file_size for member in members.values()) > size:
            raise ValueError("its parts claim more than the file holds")
        folders = {name.split("/")[0] for name in members}
        content = members.get(f"{min(folders, default='')}/data.pkl")
        if len(folders) > 1 or content is None:
            raise ValueError("not one set of tensors")
        for member in members.values():
            _check_member(archive, member)
        with archive.open(content) as stream:
            _check_pickle(stream)
        with archive.open(content) as stream:
            claims = _Claims(stream, encoding="bytes")
            claims.load()
    for key, length in claims.claimed_bytes:
        record = members.get(f"{content.filename.removesuffix('data.pkl')}data/{key}")
        if record is None or record.file_size != length:
            raise ValueError(f"its numbers {key} do not have the length they should")


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Compare a member's checksum and length; `zipfile` raises where the checksum differs."""
    with archive.open(member) as stream:
        length = sum(map(len, _blocks(stream)))
    if length != member.file_size:
        raise ValueError(f"{member.filename} is cut off")


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: stream.read(_BLOCK_BYTES), b"")


def _check_pickle(stream: BinaryIO) -> None:
    """Read a pickle's instructions without following them, up to its end."""
    for position, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        if instruction.name in _NAMING and argument not in _ALLOWED:
            raise pickle.UnpicklingError
        # Python keeps as many places as the highest number among them.
        if instruction.name == "LONG_BINPUT" and argument > position:
            raise ValueError("its values are numbered wrongly")


class _Inert:
    """Stands for all that a pickle names, and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass


class _Claims(pickle.Unpickler):
    """Follow a checked pickle with inert values, and note how long it takes its numbers to be.

    Older versions of PyTorch believe these lengths, and read on behind the numbers.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.claimed_bytes: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" == "collections OrderedDict":
            return OrderedDict
        return _ELEMENT_BYTES.get(name, _Inert)

    def persistent_load(self, pid: Any) -> None:
        _, element_bytes, key, _, length = pid
        if not (isinstance(key, str) and isinstance(element_bytes, int) and isinstance(length, int)):
            raise ValueError("numbers without a length")
        self.claimed_bytes.append((key, element_bytes * length))
