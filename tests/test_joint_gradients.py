"""Ranks share gradients of their episodes as one process with all of them has them: real processes, gloo."""

import copy
import warnings

import numpy as np
import pytest
import torch

import training
from config_ssl_upload import dataset_defaults, parse_config
from dataloaders.episodes import make_episode_loader
from models.encoder import BACKBONES
from script.workflows.training_episodes import make_training_episodes
from tests.narrow_resnet import NarrowResNet
from tests.util.parallel.small_jobs import run_job
from util.parallel.collectives import start_ranks
from util.parallel.ranks import Ranks

pytestmark = pytest.mark.usefixtures("narrow_encoder")

CPU = torch.device("cpu")
SWITCHES = (None, "magnitude", "mining", "expansion", "prior")


@pytest.fixture(name="tiny_values", scope="module")
def _tiny_values(phantom_dir):
    values = dataset_defaults("PHANTOM")
    values["phantom"].update(n_scans=10, image_size_px=48)
    values["path"]["PHANTOM"]["data_dir"] = str(phantom_dir)
    values.update(n_sv=60, device="cpu")
    values["model"]["feature_width"] = 8
    return values


def _gradients(values, batch_size, ranks, switch=None):
    """Gradients of one step over two episodes in all: BatchNorm frozen, dropout off."""
    config = parse_config(copy.deepcopy(values))
    model = config.model.model_copy(update={"frozen_batchnorm": True} | ({switch: False} if switch else {}))
    config = config.model_copy(update={"n_steps": 1, "batch_size": batch_size, "model": model})
    network = training.make_network(config).train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    model = training.prepare_network(config, network, device=CPU, ranks=ranks)
    dataset = make_training_episodes(config, n_ranks=ranks.n_ranks)
    loader = make_episode_loader(
        dataset, batch_size=batch_size, num_workers=0, rank=ranks.rank, n_ranks=ranks.n_ranks
    )
    (batch,) = loader
    losses = training.training_losses(model, batch, config=config, step=1, device=CPU, rank=ranks.rank)
    (losses.query + losses.alignment).mean().backward()
    gradients = {n: p.grad.numpy() for n, p in network.named_parameters() if p.grad is not None}
    return batch["episode_index"].tolist(), gradients


def _gradients_of_rank(values, switches):
    BACKBONES["resnet18"] = NarrowResNet  # in this rank's process; the fixture is in another
    ranks = start_ranks("cpu")
    with warnings.catch_warnings(record=True) as output:
        warnings.simplefilter("always")
        result = [_gradients(values, 1, ranks, switch) for switch in switches]
    return result, [str(warning.message) for warning in output]


def test_two_ranks_have_the_gradients_of_one_with_twice_the_batch(tiny_values, tmp_path):
    outcomes = run_job(_gradients_of_rank, tmp_path, tiny_values, SWITCHES)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].stderr + outcomes[1].stderr
    for position, switch in enumerate(SWITCHES):
        episodes, expected = _gradients(tiny_values, 2, Ranks(), switch)
        (of_first, first), (of_second, second) = (outcome.result[0][position] for outcome in outcomes)
        assert episodes == [0, 1]
        assert (of_first, of_second) == ([0], [1])
        assert any(gradient.any() for gradient in expected.values())
        largest = max(np.abs(gradient).max() for gradient in expected.values())
        for name, gradient in expected.items():
            # Beside a parameter's own scale the network's: some gradients are zero but for rounding.
            atol = 2e-5 * np.abs(gradient).max() + 1e-7 * largest
            np.testing.assert_allclose(first[name], gradient, rtol=1e-4, atol=atol, err_msg=name)
            np.testing.assert_array_equal(first[name], second[name])


def test_gradients_of_the_episodes_differ_so_that_their_mean_means_something(tiny_values):
    _, together = _gradients(tiny_values, 2, Ranks())
    _, alone = _gradients(tiny_values, 1, Ranks())
    name = "encoder.reduce.weight"
    assert np.abs(together[name] - alone[name]).max() > 0.1 * np.abs(alone[name]).max()
