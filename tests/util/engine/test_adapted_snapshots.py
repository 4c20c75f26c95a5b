"""An adaptation runs once: its snapshot is reused, an interrupted one resumes, a damaged file is replaced."""

import pytest
import torch

from util.engine import adapted_snapshots
from util.engine.adapted_snapshots import find_or_adapt
from util.engine.snapshots import Snapshot, load_snapshot
from util.errors import UserError

EPISODES = [{"image": torch.full((2,), float(index))} for index in range(6)]
IDENTITY = {"scan_id": 3, "labels": [1, 4]}


class Counting:
    """Add each episode's number to the only weight; fail or diverge in a chosen step."""

    def __init__(self, *, fails_at=None, diverges_at=None):
        self.step = 0
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.model.weight)
        self._fails_at, self._diverges_at = fails_at, diverges_at
        self.seeds = []

    def take_step(self, episode, *, seed):
        if self.step == self._fails_at:
            raise KeyboardInterrupt
        if self.step == self._diverges_at:
            raise FloatingPointError("loss is nan in step 3")
        assert episode["image"].shape == (1, 2)
        with torch.no_grad():
            self.model.weight += episode["image"][0, 0]
        self.step += 1
        self.seeds.append(seed)
        return 0.5

    def state_dict(self):
        return {"step": self.step, "weights": self.model.state_dict()}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["weights"])
        self.step = state["step"]


def make_snapshot(value=0.0):
    weights = {"weight": torch.full((1, 1), value)}
    return Snapshot(7, weights, {"dataset": "PHANTOM", "seed": 1}, {"torch": "2"}, training_ids=[5, 6])


def adapt(folder, adaptation, *, snapshot=None, identity=IDENTITY, seed=1):
    return find_or_adapt(
        folder,
        snapshot or make_snapshot(),
        identity,
        start=lambda: (adaptation, EPISODES),
        seed=seed,
        title="adapting to scan 3",
        progress=False,
    )


def test_the_adapted_snapshot_can_be_loaded_and_describes_itself(tmp_path):
    adapted = adapt(tmp_path, Counting())
    assert adapted.weights["weight"].item() == sum(range(6))
    loaded = load_snapshot(adapted.source)
    assert loaded.config["adapted_to"] == IDENTITY
    assert (loaded.step, loaded.training_ids) == (7, [5, 6])
    assert torch.equal(loaded.weights["weight"], adapted.weights["weight"])
    assert [path.name for path in tmp_path.iterdir()] == [adapted.source.name]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adapted = adapt(None, Counting())
    assert (adapted.weights["weight"].item(), adapted.source) == (15, None)
    assert capsys.readouterr().out == "adapting to scan 3: 6 steps in 0 s\n"
    assert list(tmp_path.iterdir()) == []


def test_a_second_call_takes_the_snapshot_from_the_cache(tmp_path):
    adapt(tmp_path, Counting())
    assert adapt(tmp_path, Counting(fails_at=0)).weights["weight"].item() == 15


@pytest.mark.parametrize(
    "other", [{"snapshot": make_snapshot(2.0)}, {"identity": {**IDENTITY, "scan_id": 4}}, {"seed": 2}]
)
def test_other_weights_supports_or_seeds_are_adapted_again(other, tmp_path):
    adapt(tmp_path, Counting())
    again = Counting()
    adapt(tmp_path, again, **other)
    assert again.step == len(EPISODES)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_adaptation_resumes_after_its_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(adapted_snapshots, "CHECKPOINT_INTERVAL_S", 0)
    whole = Counting()
    adapt(tmp_path / "whole", whole)
    with pytest.raises(KeyboardInterrupt):
        adapt(tmp_path / "broken", Counting(fails_at=4))
    resumed = Counting()
    adapted = adapt(tmp_path / "broken", resumed)
    assert adapted.weights["weight"].item() == 15
    assert resumed.seeds == whole.seeds[4:]


def test_damaged_files_are_replaced_with_a_remark(tmp_path, monkeypatch):
    monkeypatch.setattr(adapted_snapshots, "CHECKPOINT_INTERVAL_S", 0)
    path = adapt(tmp_path, Counting()).source
    path.write_bytes(b"damaged")
    path.with_suffix(".partial.pt").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"adapting again|starts again") as remarks:
        assert adapt(tmp_path, Counting()).weights["weight"].item() == 15
    assert len(remarks) == 2
    assert load_snapshot(path).weights["weight"].item() == 15


def test_a_diverging_adaptation_names_the_key_to_lower(tmp_path):
    with pytest.raises(UserError, match=r"scan 3: loss is nan in step 3; lower adaptation\.lr"):
        adapt(tmp_path, Counting(diverges_at=2))
    assert not list(tmp_path.glob("*"))
