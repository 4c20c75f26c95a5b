"""On a CUDA GPU: results stay near those of a CPU in float32, and a step never waits for the GPU."""

import pytest
import torch
from torch import nn

import training
from config_ssl_upload import dataset_defaults, parse_config
from models import attention
from models.attention import attend
from models.precision import mixed_precision
from models.prototypes import _random_keys
from tests.models.small_network import losses_of, make_batch, make_network
from util.config.settings import merge_values
from util.parallel.hardware import choose_kernels
from util.parallel.ranks import Ranks

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.usefixtures("switches_restored"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def _step(device, precision):
    """Losses and gradients of one batch, on the CPU."""
    choose_kernels(deterministic=False, precision=precision)
    model = make_network(tiny=False).float().to(device, memory_format=torch.channels_last).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    batch = [tensor.float().to(device) for tensor in make_batch(2)]
    with mixed_precision(device, precision):
        losses = losses_of(model, *batch, prototype_seeds=torch.tensor([1, 2], device=device))
    (losses.query + losses.alignment).mean().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return losses.query.detach().cpu(), losses.alignment.detach().cpu(), gradient.double().cpu()


@pytest.mark.parametrize(
    ("precision", "of_query", "of_alignment", "cosine"),
    [("fp32", 1e-3, 1e-2, 0.999), ("tf32", 1e-2, 0.05, 0.95), ("bf16", 0.03, 0.15, 0.8)],
)
def test_losses_and_gradients_agree_with_float32_on_a_cpu(precision, of_query, of_alignment, cosine):
    expected_query, expected_alignment, expected = _step(CPU, "fp32")
    query, alignment, gradient = _step(CUDA, precision)
    torch.testing.assert_close(query, expected_query, rtol=of_query, atol=0)
    torch.testing.assert_close(alignment, expected_alignment, rtol=of_alignment, atol=0)
    assert gradient @ expected / (gradient.norm() * expected.norm()) > cosine


def test_deterministic_steps_give_the_same_weights_twice():
    values = {"model": {"encoder": "resnet18", "feature_width": 8}, "deterministic": True}
    config = parse_config(merge_values(dataset_defaults("PHANTOM"), values))
    choose_kernels(deterministic=True, precision=config.precision)

    def weights_after_three_steps():
        network = training.make_network(config).train()
        model = training.prepare_network(config, network, device=CUDA, ranks=Ranks())
        state = training.make_state(config, network, device=CUDA, log=lambda *output: None)
        names = ("support_images", "support_masks", "query_images", "query_masks")
        batch = {name: tensor.float() for name, tensor in zip(names, make_batch(2), strict=True)}
        batch["episode_index"] = torch.tensor([3, 4])
        for _ in range(3):
            training.take_step(config, model, state, batch, device=CUDA)
        return [parameter.detach().cpu() for parameter in network.parameters()]

    one, two = weights_after_three_steps(), weights_after_three_steps()
    assert all(torch.equal(before, after) for before, after in zip(one, two, strict=True))


def test_prototypes_are_drawn_with_the_same_keys():
    draws = torch.tensor([0, 7, 2**40 + 3, 2**63 - 1])
    shape = torch.Size((3, 1000))
    assert torch.equal(_random_keys(draws.to(CUDA), shape).cpu(), _random_keys(draws, shape))


@pytest.mark.parametrize("limit", [1, 3 * 2 * 50, 1 << 25])
def test_attention_in_pieces_equals_that_of_a_cpu(limit, monkeypatch):
    monkeypatch.setattr(attention, "PIECE_ELEMENTS_GPU", limit)
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 40, 16), (2, 50, 16), (2, 50, 16), (2, 3, 50), (1,)
    inputs = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    results = []
    for device in (CPU, CUDA):
        own = [tensor.to(device).requires_grad_() for tensor in inputs]
        out = attend(*own[:3], masks=own[3], mu=own[4])
        gradients = torch.autograd.grad(out.square().sum(), own)
        results.append([tensor.cpu() for tensor in (out.detach(), *gradients)])
    for value, reference in zip(*results, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "changes",
    [{"precision": name} for name in ("fp32", "tf32", "bf16")]
    + [{"activation_checkpointing": True}, {"precision": "bf16", "optim": {"name": "adamw"}}],
    ids=str,
)
def test_a_step_never_waits_for_the_gpu(changes):
    small = {"model": {"encoder": "resnet18", "feature_width": 8}}
    config = parse_config(merge_values(merge_values(dataset_defaults("PHANTOM"), small), changes))
    choose_kernels(deterministic=False, precision=config.precision)
    network = training.make_network(config).train()
    model = training.prepare_network(config, network, device=CUDA, ranks=Ranks())
    state = training.make_state(config, network, device=CUDA, log=lambda *output: None)
    names = ("support_images", "support_masks", "query_images", "query_masks")
    batch = {name: tensor.float().pin_memory() for name, tensor in zip(names, make_batch(2), strict=True)} | {
        "episode_index": torch.tensor([3, 4])
    }

    def step():
        training.take_step(config, model, state, batch, device=CUDA)

    step()  # libraries start, and choose their kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        with pytest.raises(RuntimeError, match="synchron"):  # so that a wait would show
            torch.ones(1, device=CUDA).item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.meter.flush()["loss"] > 0
