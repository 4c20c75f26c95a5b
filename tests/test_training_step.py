"""A training step: never waits for its device, and runs in the form that the configuration asks for."""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import training
from config_ssl_upload import dataset_defaults, parse_config
from models import prototypes
from models.prior_masks import PRIOR_FORMS
from tests.models.small_network import make_batch
from util.config.settings import merge_values
from util.engine.optimisation import make_optimizer
from util.parallel.ranks import Ranks

pytestmark = pytest.mark.usefixtures("narrow_encoder")

CPU = torch.device("cpu")
SWITCHES = ("magnitude", "prior", "mining", "expansion")
NAMES = ("support_images", "support_masks", "query_images", "query_masks")


def _config(**changes):
    small = {"model": {"encoder": "resnet18", "feature_width": 8}}
    return parse_config(merge_values(merge_values(dataset_defaults("PHANTOM"), small), changes))


def _batch(n_episodes=2):
    tensors = make_batch(n_episodes, size_px=(40, 41))
    # Their indices as numbers: what is on the host may be looked at.
    return {
        "episode_index": list(range(n_episodes)),
        **dict(zip(NAMES, (t.float() for t in tensors), strict=True)),
    }


class _NoWaiting(TorchDispatchMode):
    """Refuse what makes the host wait for a device: reading values, and shapes that depend on them."""

    METHODS = ("tolist", "numpy", "cpu")  # read the memory without an operation, where that is the host's
    REFUSED = (
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "nonzero",
        "nonzero_numpy",
        "argwhere",
        "masked_select",
        "unique_dim",
        "_unique",
        "_unique2",
        "unique_consecutive",
        "repeat_interleave",
        "bincount",
    )

    def __init__(self):
        super().__init__()
        self._methods = patch.multiple(torch.Tensor, **dict.fromkeys(self.METHODS, self._refuse))

    @staticmethod
    def _refuse(*_args, **_kwargs):
        raise AssertionError("a copy to the host waits for the device")

    def __enter__(self):
        self._methods.start()
        return super().__enter__()

    def __exit__(self, *error):
        self._methods.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in self.REFUSED or (name in ("index", "index_put", "index_put_") and self._by_mask(args[1])):
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _by_mask(indices):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


class _LooksInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * gradient.sum().item()


WAITS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.detach()[0]),
    "bool": lambda x: bool((x > 0).all()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.detach().cpu(),
    "read by mask": lambda x: x[x > 0],
    "write by mask": lambda x: x.clone().index_put_((x > 0,), x[0]),
    "nonzero": lambda x: (x > 0).nonzero(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "item in backward": lambda x: _LooksInBackward.apply(x).sum().backward(),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_waiting_for_the_device_would_be_found(wait):
    x = torch.randn(5).requires_grad_()
    with _NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        wait(x)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "optim": {"name": "adamw", "clip_norm": 1.0, "ema_decay": 0.9},
            "nonfinite": "skip:3",
        },
        {"activation_checkpointing": True},
        *({"model": {switch: False}} for switch in SWITCHES),
        *({"model": {"prior_form": form}} for form in PRIOR_FORMS),
        {"model": {"prior_gradient": "straight_through"}},
    ],
    ids=["default", "adamw_clipped", "recompute", *SWITCHES, *PRIOR_FORMS, "straight_through"],
)
def test_a_step_never_waits_for_the_device(changes):
    config = _config(**changes)
    network = training.make_network(config).train()
    model = training.prepare_network(config, network, device=CPU, ranks=Ranks())
    state = training.make_state(config, network, device=CPU, log=lambda *output: None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for batch in (_batch(), _batch()):
        with _NoWaiting():
            training.take_step(config, model, state, batch, device=CPU)
    assert state.step == 2
    assert state.meter.flush()["loss"] > 0
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())


def _losses(config, batch, step=1):
    model = training.make_network(config).train()
    model = training.prepare_network(config, model, device=CPU, ranks=Ranks())
    return training.training_losses(model, batch, config=config, step=step, device=CPU).query.tolist()


def test_draws_follow_the_episodes_index_and_dropout_the_step(monkeypatch):
    monkeypatch.setattr(prototypes, "MAX_WINDOWS", 5)  # fewer than there are in these small images
    config, batch = _config(), _batch(1)
    first = _losses(config, batch)
    assert _losses(config, batch) == first
    assert _losses(config, {**batch, "episode_index": torch.tensor([0])}) == first
    assert _losses(config, {**batch, "episode_index": [1]}) != first
    assert _losses(config, batch, step=2) != first


def _weights(network, n_axes):
    return [p for p in network.parameters() if p.ndim == n_axes]


@pytest.mark.parametrize("channels_last", [True, False])
def test_convolutions_keep_channels_innermost_through_a_step_if_requested(channels_last):
    config = _config(channels_last=channels_last)
    network = training.make_network(config).train()
    model = training.prepare_network(config, network, device=CPU, ranks=Ranks())
    assert model is network
    state = training.make_state(config, network, device=CPU, log=lambda *output: None)
    training.take_step(config, network, state, _batch(), device=CPU)
    training.training_losses(network, _batch(), config=config, step=1, device=CPU).query.mean().backward()
    spatial = [p for p in _weights(network, 4) if p.shape[1] > 1 and p.shape[2] > 1]
    assert len(spatial) > 10
    for weight in spatial:
        assert weight.stride(1) == (1 if channels_last else weight[0, 0].numel())
        assert weight.grad.stride() == weight.stride()


def test_channels_last_changes_no_result():
    plain, innermost = (_losses(_config(channels_last=flag), _batch()) for flag in (False, True))
    assert innermost == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)], ids=["sgd", "adamw"]
)
def test_the_optimiser_is_fused_where_there_is_a_kernel_and_has_every_parameter(name, kind):
    config = _config(optim={"name": name, "lr": 0.5, "momentum": 0.3, "weight_decay": 0.25})
    with torch.device("meta"):
        network = training.make_network(config)
    for device, fused in (("cpu", True), ("cuda", True), ("mps", False)):
        optimizer = make_optimizer(config.optim, network.parameters(), device=torch.device(device))
        assert type(optimizer) is kind
        (group,) = optimizer.param_groups
        assert group["fused"] is fused
        assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
        assert group.get("momentum", group.get("betas", (None,))[0]) == 0.3
        assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("switch", [None, *SWITCHES])
def test_parameters_are_said_to_be_left_out_exactly_where_some_get_no_gradient(switch):
    config = _config(model={switch: False} if switch else {})
    network = training.make_network(config).train()
    losses = training.training_losses(network, _batch(), config=config, step=1, device=CPU)
    (losses.query + losses.alignment).mean().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert network.has_unused_parameters is bool(without)


@pytest.fixture(name="lone_group")
def _lone_group():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("lone_group")
@pytest.mark.parametrize("switch", [None, "mining"])
def test_several_ranks_look_for_unused_parameters_only_where_there_are_some(switch):
    config = _config(model={switch: False} if switch else {})
    network = training.make_network(config)
    model = training.prepare_network(config, network, device=CPU, ranks=Ranks(n_ranks=2))
    assert isinstance(model, DistributedDataParallel)
    assert model.module is network
    assert model.find_unused_parameters is (switch is not None)
    assert not model.broadcast_buffers
