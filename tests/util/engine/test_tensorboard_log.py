"""TensorBoard's files hold what was logged; without the package or a disk, one line says so."""

import numpy as np
import pytest

from util.engine import tensorboard_log
from util.engine.tensorboard_log import TensorBoardLog, check_tensorboard
from util.errors import UserError


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(tensorboard_log, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"tensorboard=True: .* is not installed; run pip install tensorboard"
    ):
        check_tensorboard()


def test_metrics_and_pictures_are_read_back(tmp_path):
    pytest.importorskip("tensorboard", reason="the optional package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    others = []
    log = TensorBoardLog(tmp_path, lambda *entry: others.append(entry))
    log("loss", 0.5, 10)
    log("loss", 0.25, 20)
    log.add_picture("episode", np.zeros((4, 6, 3), np.float32), 20)
    log.close()
    log("loss", 0.1, 30)  # too late, but no error
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(entry.step, entry.value) for entry in events.Scalars("loss")] == [(10, 0.5), (20, 0.25)]
    (picture,) = events.Images("episode")
    assert (picture.step, picture.height, picture.width) == (20, 4, 6)
    assert others == [("loss", 0.5, 10), ("loss", 0.25, 20), ("loss", 0.1, 30)]


def test_a_full_disk_causes_one_warning_and_the_training_continues(tmp_path):
    pytest.importorskip("tensorboard", reason="the optional package tensorboard is not installed")
    warnings, others = [], []
    log = TensorBoardLog(tmp_path, lambda *entry: others.append(entry), warn=warnings.append)

    def refuse(*_args, **_options):
        raise OSError(28, "No space left on device")

    log._writer.add_scalar = refuse
    for step in (1, 2):
        log("loss", 0.5, step)
    assert warnings == ["warning: TensorBoard's files are not written any more (No space left on device)"]
    assert len(others) == 2
