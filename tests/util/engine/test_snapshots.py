"""Snapshots keep all that is needed, run nothing and are never half-written."""

import pickle
import zipfile

import pytest
import torch

from util.engine import snapshots
from util.engine.snapshots import Snapshot, current_versions, load_snapshot, load_weights, save_snapshot
from util.errors import UserError


def _snapshot(step=7):
    weights = torch.nn.Linear(3, 2, bias=True).state_dict()
    weights["counter"] = torch.tensor(5, dtype=torch.int64)
    config = {"dataset": "PHANTOM", "n_sv": None, "optim": {"lr": 0.1}, "test_label": [1, 4], "use_gt": False}
    return Snapshot(step=step, weights=weights, config=config, versions={"python": "3.11.7"})


def _content():
    snapshot = _snapshot()
    return {"format": 1, **{name: value for name, value in vars(snapshot).items() if name != "source"}}


@pytest.fixture(name="path")
def _path(tmp_path):
    """A snapshot of 7 steps."""
    save_snapshot(tmp_path / "snapshot.pt", _snapshot())
    return tmp_path / "snapshot.pt"


def test_a_snapshot_survives_saving_and_loading(tmp_path):
    snapshot = _snapshot()
    save_snapshot(tmp_path / "runs" / "snapshot.pt", snapshot)
    loaded = load_snapshot(tmp_path / "runs" / "snapshot.pt")
    assert (loaded.step, loaded.config, loaded.versions) == (7, snapshot.config, snapshot.versions)
    assert loaded.weights.keys() == snapshot.weights.keys()
    for name, tensor in snapshot.weights.items():
        assert torch.equal(loaded.weights[name], tensor)
        assert loaded.weights[name].dtype == tensor.dtype


def test_weights_are_loaded_without_their_gradients(tmp_path):
    weights = {"w": torch.ones(2, requires_grad=True)}
    save_snapshot(tmp_path / "snapshot.pt", Snapshot(step=1, weights=weights, config={}, versions={}))
    assert not load_snapshot(tmp_path / "snapshot.pt").weights["w"].requires_grad


def test_code_hidden_in_a_snapshot_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "it ran"

    class Trap:
        def __reduce__(self):
            return open, (str(trace), "w")

    torch.save({**_content(), "config": Trap()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad\.pt: is damaged or not a snapshot \(.+\); use another"):
        load_snapshot(tmp_path / "bad.pt")
    assert not trace.exists()
    # The trap is a real one: an unguarded load springs it.
    torch.load(tmp_path / "bad.pt", weights_only=False)["config"].close()
    assert trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_snapshot_that_was_cut_off_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"snapshot\.pt: is damaged or not a snapshot") as caught:
        load_snapshot(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("no snapshot")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"step": 3}, protocol=2))
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a", "b")
    for name in ("text.pt", "pickle.pt", "zip.pt"):
        with pytest.raises(UserError, match=rf"{name}: is (damaged or )?not a snapshot"):
            load_snapshot(tmp_path / name)


def test_a_missing_snapshot_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pt: no such snapshot"):
        load_snapshot(tmp_path / "gone.pt")
    with pytest.raises(UserError, match="no such snapshot"):
        load_snapshot(tmp_path)


@pytest.mark.parametrize("field", ["format", "step", "weights", "config", "versions"])
@pytest.mark.parametrize("damage", ["missing", "wrong type"])
def test_a_field_that_is_missing_or_wrong_is_named(tmp_path, field, damage):
    content = _content()
    del content[field]
    if damage == "wrong type":
        content[field] = "7"
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match=rf"other\.pt: is not a snapshot of this project \(no {field}\)"):
        load_snapshot(tmp_path / "other.pt")


@pytest.mark.parametrize("content", [{"w": torch.ones(2)}, torch.ones(2), [1, 2]])
def test_bare_weights_are_not_a_snapshot(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match="is not a snapshot of this project"):
        load_snapshot(tmp_path / "other.pt")


def test_another_format_is_refused_with_both_numbers(tmp_path):
    torch.save({**_content(), "format": 2}, tmp_path / "new.pt")
    with pytest.raises(UserError, match=r"new\.pt: has snapshot format 2, this version reads 1; train it"):
        load_snapshot(tmp_path / "new.pt")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("PytorchStreamWriter failed\nframe #0"),
            r"\(PytorchStreamWriter failed\); is the disk",
        ),
        (OSError(28, "No space left on device"), r"cannot be written \(No space left on device\)"),
    ],
)
def test_a_failed_save_leaves_the_previous_snapshot(path, monkeypatch, error, message):
    def fail(_, temporary):
        temporary.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match=message):
        save_snapshot(path, _snapshot(step=8))
    assert load_snapshot(path).step == 7
    assert list(path.parent.iterdir()) == [path]


def test_versions_of_python_and_packages_are_recorded(monkeypatch):
    versions = current_versions()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert versions["python"].count(".") == 2
    assert {"numpy", "torchvision", "SimpleITK", "sacred"} <= versions.keys()
    monkeypatch.setattr(snapshots, "_RECORDED_PACKAGES", ("no-such-package",))
    assert current_versions()["no-such-package"] == "absent"


def _snapshot_of(weights):
    return Snapshot(step=1, weights=weights, config={}, versions={})


def test_a_network_gets_a_snapshots_weights_and_is_returned():
    trained, network = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert not torch.equal(trained.weight, network.weight)
    assert load_weights(network, _snapshot_of(trained.state_dict())) is network
    assert all(torch.equal(network.state_dict()[name], value) for name, value in trained.state_dict().items())
    with torch.no_grad():
        trained.weight.zero_()
    assert network.weight.any()  # a copy


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"weight": None}, "weight"),
        ({"bias": None, "extra": torch.zeros(1)}, "bias"),
        ({"extra": torch.zeros(1)}, "extra"),
        ({"weight": torch.zeros(2, 4)}, "weight"),
        ({"bias": torch.zeros(2, 1)}, "bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_tensors_name_and_nothing_is_loaded(changes, name):
    network = torch.nn.Linear(3, 2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    weights = {**torch.nn.Linear(3, 2).state_dict(), **changes}
    weights = {key: value for key, value in weights.items() if value is not None}
    message = rf"^the snapshot does not fit the network: {name} differs; train it again$"
    with pytest.raises(UserError, match=message):
        load_weights(network, _snapshot_of(weights))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
