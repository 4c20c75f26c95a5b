"""Batches come from workers in any surroundings, or one line says that they do not."""

import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from dataloaders import worker_batches
from dataloaders.episode_settings import EpisodeConfig
from dataloaders.episodes import EpisodeDataset, make_episode_loader
from dataloaders.worker_batches import PackedBatch, measure_timeout_s
from util.engine.signals import SignalHandler
from util.errors import UserError

CONFIG = EpisodeConfig(seed=11, n_episodes=8)


class _Broken(EpisodeDataset):
    """Episodes of which some fail in a worker."""

    defect = staticmethod(lambda: None)

    def __getitem__(self, index):
        if index == 2 and torch.utils.data.get_worker_info() is not None:
            self.defect()
        return super().__getitem__(index)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _sleep():
    time.sleep(60)


def _fail():
    raise ZeroDivisionError("a defect")


def _batches(scans, defect, monkeypatch, *, timeout_s=20.0):
    monkeypatch.setattr(worker_batches, "MIN_TIMEOUT_S", timeout_s)
    monkeypatch.setattr(worker_batches, "_TIMEOUT_BATCHES", 0)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    monkeypatch.setattr(_Broken, "defect", staticmethod(defect))
    return list(make_episode_loader(_Broken(scans, CONFIG), batch_size=1, num_workers=1))


@pytest.mark.parametrize(
    ("defect", "message"),
    [(_die, "(is killed by signal: Killed|exited unexpectedly)"), (_sleep, "timed out after 1.0 s")],
)
def test_workers_that_deliver_nothing_end_in_one_line(scans, monkeypatch, defect, message):
    with pytest.raises(
        UserError, match=rf"{message}.*/dev/shm and TMPDIR .*, or set num_workers=0"
    ) as caught:
        _batches(scans, defect, monkeypatch, timeout_s=1.0)
    assert "\n" not in str(caught.value)


def test_a_defect_in_a_worker_keeps_its_traceback(scans, monkeypatch):
    with pytest.raises(ZeroDivisionError, match="a defect"):
        _batches(scans, _fail, monkeypatch)


def test_a_temporary_folder_too_long_for_sockets_does_not_matter(scans, monkeypatch, tmp_path):
    folder = tmp_path / ("scratch_of_the_cluster_job_0123456789/" * 4)
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert len(_batches(scans, lambda: None, monkeypatch)) == 8


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of PyTorch's half-made iterator
def test_workers_that_cannot_start_end_in_one_line(scans, monkeypatch):
    loader = make_episode_loader(EpisodeDataset(scans, CONFIG), batch_size=1, num_workers=1)

    def refuse(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.multiprocessing.Queue", refuse)
    with pytest.raises(UserError, match=r"deliver no episodes \(cannot start \(No space left on device\)\)"):
        next(iter(loader))


def test_the_timeout_grows_with_the_time_that_a_batch_takes():
    class Slow:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            time.sleep(0.05 if index == 2 else 0)  # the first samples may be smaller

    assert measure_timeout_s(Slow(), 1) == worker_batches.MIN_TIMEOUT_S
    assert 500 < measure_timeout_s(Slow(), 200) < 2000


def test_a_batch_is_packed_and_unpacked_without_a_change():
    samples = [{"image": torch.randn(1, 3, 4), "index": torch.tensor(n)} for n in (4, 7)]
    batch = PackedBatch(samples).unpack()
    assert torch.equal(batch["image"], torch.stack([sample["image"] for sample in samples]))
    assert batch["index"].tolist() == [4, 7]
    assert batch["index"].dtype == torch.int64


def test_a_signal_ends_the_wait_for_a_batch(scans, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    monkeypatch.setattr(_Broken, "defect", staticmethod(_sleep))
    dataset = _Broken(scans, replace(CONFIG, n_episodes=4))
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with SignalHandler() as signals:
        seen = []
        for batch in signals.interruptible(make_episode_loader(dataset, batch_size=1, num_workers=1)):
            seen.append(batch)
            if len(seen) == 2:
                signal.alarm(1)
        assert seen[-1] is None
        assert len(seen) == 3
        assert signals.pending_signal == signal.SIGTERM
