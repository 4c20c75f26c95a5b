"""Training: schedule, repeatability, what it tells and what it refuses."""

import json
import math
import re

import pytest
import torch

import training
from bench.fold import RATE
from config_ssl_upload import dataset_defaults, parse_config
from models.losses import METRICS, EpisodeLosses
from tests.conftest import REAL_PLOT_CURVES
from util.config.command_line import run_command_line
from util.engine import tensorboard_log, training_reporter
from util.engine.metric_averager import MetricAverager
from util.engine.optimisation import learning_rate
from util.engine.snapshots import load_snapshot

pytestmark = pytest.mark.usefixtures("narrow_encoder")


def train(overrides, *words):
    assert run_command_line(training.experiment, [*overrides, *words]) == 0


def weights_of(folder, step=3):
    return load_snapshot(folder / "snapshots" / f"snapshot_{step:06d}.pt").weights


def losses(query, alignment):
    areas = torch.tensor([1.0, 0.5, 0.25, 0.0])
    episode_losses = EpisodeLosses(
        query=torch.tensor(query),
        alignment=torch.tensor(alignment),
        prior_areas=areas,
        prior_agreement=torch.tensor([0.75, 0.5, 0.125]),
        has_prediction=torch.tensor(alignment) > 0,
    )
    return episode_losses.metrics()


def test_learning_rate_is_cut_after_each_full_period():
    values = {**dataset_defaults("CHAOST2"), "max_iters_per_load": 10, "lr_step_gamma": 0.5}
    config = parse_config(values)
    cuts = {"cut_every": config.max_iters_per_load, "cut_factor": config.lr_step_gamma}
    rates = [learning_rate(config.optim, step, n_steps=100, **cuts) for step in (1, 10, 11, 20, 21)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])


def test_metrics_are_averaged_over_steps_and_reset():
    meter = MetricAverager(METRICS)
    meter.add(losses([1.0, 3.0], [0.5, 0.5]))
    meter.add(losses([4.0], [0.0]))
    averages = meter.flush()
    assert averages["query_loss"] == pytest.approx(3.0)
    assert averages["alignment_loss"] == pytest.approx(0.25)
    assert averages["loss"] == pytest.approx(3.25)
    assert averages["raw_prior_background"] == 1.0
    assert averages["prior_background"] == 0.25
    assert averages["prior_foreground"] == 0.0
    assert averages["prior_dice_foreground"] == 0.5
    assert averages["empty_predictions"] == 0.5  # of the means of no episode of two, and one of one
    meter.add(losses([7.0], [0.0]))
    assert meter.flush()["loss"] == pytest.approx(7.0)


def test_metrics_skip_non_finite_steps():
    meter = MetricAverager(METRICS)
    for loss in (math.nan, 3.0, math.inf, 5.0):
        meter.add(losses([loss], [0.0]))
    assert meter.flush()["loss"] == pytest.approx(4.0)
    meter.add(losses([math.nan], [0.0]))
    assert math.isnan(meter.flush()["loss"])


def test_sums_of_another_set_of_metrics_are_dropped():
    meter, other = MetricAverager(METRICS), MetricAverager(("loss", "other"))
    meter.add(losses([1.0], [0.0]))
    other.load_state_dict(meter.state_dict())
    other.add(torch.tensor([3.0, 4.0]))
    assert other.flush() == {"loss": 3.0, "other": 4.0}


def test_the_same_command_gives_the_same_weights_for_any_number_of_workers(tiny_overrides, tmp_path):
    train(tiny_overrides)
    train(tiny_overrides, "num_workers=2")
    train(tiny_overrides, "seed=1")
    folder = tmp_path / "runs" / "PHANTOM" / "fold_0" / "training"
    first, second, other = (weights_of(folder / number) for number in ("1", "2", "3"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_run_logs_losses_and_prior_areas_and_keeps_snapshots(tiny_overrides, tmp_path, capsys):
    train(tiny_overrides, "batch_size=2", "n_shot=2")
    run = tmp_path / "runs" / "PHANTOM" / "fold_0" / "training" / "1"
    assert sorted(entry.name for entry in (run / "snapshots").iterdir()) == [
        "snapshot_000002.pt",
        "snapshot_000003.pt",
    ]
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == {*METRICS, "lr"}
    assert metrics["loss"]["steps"] == [2, 3]
    assert all(0 <= area <= 1 for area in metrics["prior_foreground"]["values"])
    snapshot = load_snapshot(run / "snapshots" / "snapshot_000003.pt")
    assert snapshot.step == 3
    assert snapshot.config["batch_size"] == 2
    assert type(snapshot.config["test_label"]) is list
    assert {"python", "torch"} <= set(snapshot.versions)
    output = capsys.readouterr()
    n_steps, seconds, _ = RATE.search(output.out).groups()
    assert int(n_steps) > 0
    assert float(seconds) > 0
    line = next(line for line in output.out.splitlines() if line.startswith("step 2 of 3 ("))
    assert re.search(
        r"^step 2 of 3 \(\S+ s a step, \d+ s left\): loss \d\.\d+ \(support to query .*"
        r"prior masks: foreground \d+\.\d%, background .* of the image .*; learning rate \d\.\d\de-\d\d$",
        line,
    )
    assert json.loads((run / "run.json").read_text())["status"] == "COMPLETED"


def test_the_curves_of_a_run_lie_in_its_folder(tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(training_reporter, "plot_curves", REAL_PLOT_CURVES)
    train(tiny_overrides)
    run = tmp_path / "runs" / "PHANTOM" / "fold_0" / "training" / "1"
    assert (run / "training_curves.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_gets_all_metrics_and_an_episode(tiny_overrides, tmp_path):
    pytest.importorskip("tensorboard", reason="the optional package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_overrides, "tensorboard=True")
    train(tiny_overrides)
    folder = tmp_path / "runs" / "PHANTOM" / "fold_0" / "training"
    events = EventAccumulator(str(folder / "1" / "tensorboard")).Reload()
    metrics = json.loads((folder / "1" / "metrics.json").read_text())
    assert set(events.Tags()["scalars"]) == set(metrics)
    for name, metric in metrics.items():
        result = [(entry.step, entry.value) for entry in events.Scalars(name)]
        assert result == [
            (s, pytest.approx(v)) for s, v in zip(metric["steps"], metric["values"], strict=True)
        ]
    assert [picture.step for picture in events.Images("episode")] == [3]
    assert not (folder / "2" / "tensorboard").exists()
    with_pictures, without = (weights_of(folder / number) for number in ("1", "2"))
    assert all(torch.equal(with_pictures[name], without[name]) for name in without)


def test_a_missing_tensorboard_leaves_no_run_behind(tiny_overrides, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tensorboard_log, "find_spec", lambda name: None)
    assert run_command_line(training.experiment, [*tiny_overrides, "tensorboard=True"]) == 2
    assert "error: tensorboard=True: the package tensorboard is not installed" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "PHANTOM" / "fold_0" / "training").exists()


def test_snapshots_hold_the_moving_average_of_the_weights(tiny_overrides, tmp_path):
    train(tiny_overrides, "save_snapshot_every=1")
    train(tiny_overrides, "optim.ema_decay=0.999")
    folder = tmp_path / "runs" / "PHANTOM" / "fold_0" / "training"
    steps = [weights_of(folder / "1", step) for step in (1, 2, 3)]
    average = weights_of(folder / "2")
    name = "encoder.reduce.weight"
    # Keeps 1/9 of the start, then 2/10, then 3/11; the start is taken from another training of the same seed.
    start = training.make_network(
        parse_config(load_snapshot(folder / "1/snapshots/snapshot_000001.pt").config)
    )
    expected = start.state_dict()[name]
    for keep, weights in zip((1 / 9, 2 / 10, 3 / 11), steps, strict=True):
        expected = keep * expected + (1 - keep) * weights[name]
    assert torch.allclose(average[name], expected, atol=1e-6)
    assert not torch.equal(average[name], steps[-1][name])


def test_clipping_limits_the_norm_of_all_gradients_together():
    values = dataset_defaults("PHANTOM")
    values["optim"] |= {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.5}
    values["model"]["feature_width"] = 8
    config = parse_config(values)
    network = training.make_network(config)
    state = training.make_state(config, network, device=torch.device("cpu"), log=lambda *output: None)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.guard.update(torch.tensor(1.0), 1)
    moved = [new.detach().double() - old for new, old in zip(network.parameters(), before, strict=True)]
    assert torch.cat([change.flatten() for change in moved]).norm().item() == pytest.approx(0.5, rel=1e-3)


def test_further_supervoxels_gaps_and_intensities_train_too(tiny_overrides, tmp_path, capsys):
    words = ("task.more_sv=[30]", "task.max_gap=2", "task.noise=0.1", "task.contrast=[0.8, 1.2]")
    train(tiny_overrides, *words)
    assert "supervoxels_60" in (output := capsys.readouterr().out)
    assert "supervoxels_30" in output
    run = tmp_path / "runs" / "PHANTOM" / "fold_0" / "training"
    assert weights_of(run / "1")
    train(tiny_overrides)
    first, plain = (weights_of(run / number) for number in ("1", "2"))
    assert any(not torch.equal(first[name], plain[name]) for name in first)


def test_the_first_steps_may_have_slices_of_half_the_size(tiny_overrides, monkeypatch, capsys):
    sizes = []

    def note(model, batch, **options):
        sizes.append((options["step"], *batch["query_images"].shape[:1], *batch["query_images"].shape[-2:]))
        return training_losses(model, batch, **options)

    training_losses = training.training_losses
    monkeypatch.setattr(training, "training_losses", note)
    train(tiny_overrides, "n_steps=5", "batch_size=2", "task.half_size_share=0.7")
    assert sizes == [(1, 2, 24, 24), (2, 2, 24, 24), (3, 2, 24, 24), (4, 2, 48, 48), (5, 2, 48, 48)]
    assert "\nslices of half the size up to step 3; until" in capsys.readouterr().out


def test_setting_2_and_manual_labels_train_too(tiny_overrides, tmp_path):
    train(tiny_overrides, "setting=2", "organ_group=1", "task.exclude_rule=all", "min_size=50")
    assert weights_of(tmp_path / "runs" / "PHANTOM_setting2_group1" / "fold_0" / "training" / "1")
    train(tiny_overrides, "use_gt=True", "test_label=[1, 4]", "min_size=50")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("device=cuda:99", "device=cuda:99: this machine has"),
        ("device=tpu", "device=tpu: must be"),
        ("min_size=200000", "no episode can be sampled"),
        ("model.encoder_weights=/gone.pth", "/gone.pth"),
        ("n_steps=many", "n_steps='many': must be a whole number"),
    ],
)
def test_what_cannot_train_is_refused_in_one_line(tiny_overrides, override, message, capsys):
    assert run_command_line(training.experiment, [*tiny_overrides, override]) == 2
    output = capsys.readouterr().err.strip().splitlines()
    assert message in output[-1]
    assert output[-1].startswith("error: ")
    assert not any("Traceback" in line for line in output)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of PyTorch's half-made iterator
def test_workers_that_cannot_deliver_end_a_training_that_is_marked_failed(
    tiny_overrides, tmp_path, capsys, monkeypatch
):
    def refuse(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.multiprocessing.Queue", refuse)
    assert run_command_line(training.experiment, [*tiny_overrides, "num_workers=2"]) == 2
    error = capsys.readouterr().err
    assert (
        "deliver no episodes (cannot start (No space left on device)); check the free space of /dev/shm"
        in error
    )
    run = json.loads((tmp_path / "runs/PHANTOM/fold_0/training/1/run.json").read_text())
    assert run["status"] == "FAILED"
