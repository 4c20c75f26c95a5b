"""Tensor files are loaded only if every byte is as written."""

import pickle
import zipfile

import pytest
import torch

from util.errors import UserError
from util.io.tensor_files import read_tensors, write_tensors

CONTENT = {
    "w": torch.arange(6.0).reshape(2, 3),
    "n": torch.tensor([1, 2]),
    "plain": [1, 2.5, None, True, "x"],
}


@pytest.fixture(name="path")
def _path(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pt")  # whose members lie in a folder `a`
    return tmp_path / "a.pt"


def _members(path):
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def _write(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)


def _refused(path, message):
    with pytest.raises(
        UserError, match=rf"a\.pt: is damaged or not a snapshot \(.*{message}.*; use another"
    ) as one:
        read_tensors(path, kind="snapshot")
    assert "\n" not in str(one.value)


def test_written_tensors_are_read_back(path):
    write_tensors(path, CONTENT)
    result = read_tensors(path, kind="snapshot")
    assert torch.equal(result["w"], CONTENT["w"])
    assert torch.equal(result["n"], CONTENT["n"])
    assert result["plain"] == CONTENT["plain"]


def test_a_file_may_have_the_name_of_its_content(tmp_path):
    path = tmp_path / "data.pkl.pth"
    torch.save(CONTENT, path)  # which names the members after the file
    assert torch.equal(read_tensors(path, kind="snapshot")["w"], CONTENT["w"])


def test_every_flipped_bit_of_a_number_is_noticed(path):
    content = path.read_bytes()
    offset = content.index(CONTENT["w"].numpy().tobytes())
    for bit in range(0, 8 * 24, 7):
        changed = bytearray(content)
        changed[offset + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert not torch.equal(torch.load(path, weights_only=True)["w"], CONTENT["w"])  # PyTorch is silent
        _refused(path, "checksum of a/data/0 differs")


def test_a_duplicate_member_is_refused(path):
    members = _members(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data/0", members["a/data/0"][::-1])
    _refused(path, "duplicate members")


def test_members_that_claim_more_than_the_file_are_refused(path):
    content = bytearray(path.read_bytes())
    offset = content.rindex(b"PK\1\2")
    content[offset + 20 : offset + 28] = (1 << 30).to_bytes(4, "little") * 2
    path.write_bytes(content)
    _refused(path, "")


def test_a_missing_storage_is_refused(path):
    members = _members(path)
    del members["a/data/1"]
    _write(path, members)
    _refused(path, "data/1")


@pytest.mark.parametrize("code", [pickle.dumps(print, 2), pickle.dumps(print, 1)])
def test_a_pickle_that_names_anything_else_is_refused(path, code):
    members = _members(path)
    members["a/data.pkl"] = code
    _write(path, members)
    _refused(path, "more than plain tensors")


def test_the_legacy_format_is_read_only_if_allowed(path):
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(path, kind="weights", allow_legacy=True)["w"], CONTENT["w"])
    _refused(path, "older than PyTorch 1.6")
