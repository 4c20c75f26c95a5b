"""Freeze the network: write every stage's outputs and gradients, and compare them later to the bit.

    python -m tests.freeze write before.pt      # with the code as it is
    python -m tests.freeze compare before.pt    # after a change that must not change arithmetic

Equal bits need the same machine and the same PyTorch. The file keeps a hash and some values of every tensor:
`compare` says by how much others differ.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.factory import build_network
from models.few_shot_seg import FewShotSeg
from models.losses import episode_losses
from tests.models.small_network import make_batch, make_network

N_VALUES = 256  # kept of each tensor
Frozen = dict[str, tuple[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """One episode batch through one form of the network.

    Attributes:
        options: `FewShotSeg`'s.
        batch: `make_batch`'s.
        training: mode of the network.
        masks: of the support: as drawn, `empty` or `full`.
        seeds: whether prototypes are drawn with a seed for each episode.
    """

    options: dict[str, Any] = field(default_factory=dict)
    batch: dict[str, Any] = field(default_factory=dict)
    training: bool = True
    masks: str = "drawn"
    seeds: bool = True


CASES = {
    "literal, one shot": Case(batch={"size_px": (64, 64)}),
    "literal, two episodes of three shots, odd size": Case(batch={"n_episodes": 2, "n_shots": 3}),
    "standardised, three shots, evaluation": Case(
        {"prior_form": "standardised"}, {"n_shots": 3, "size_px": (61, 50)}, training=False
    ),
    "contrast, straight through, two queries": Case(
        {"prior_form": "contrast", "prior_gradient": "straight_through"}, {"n_queries": 2}
    ),
    "calibrated, soft, three shots": Case(
        {"prior_form": "calibrated", "prior_gradient": "soft"}, {"n_shots": 3}
    ),
    "empty support mask": Case(masks="empty"),
    "full support mask, evaluation, no seeds": Case(masks="full", training=False, seeds=False),
    "group norm, computed again": Case(
        {"norm": "group", "activation_checkpointing": True}, {"size_px": (40, 43)}
    ),
    "angle alone, no prior, frozen statistics": Case(
        {"magnitude": False, "prior": False, "frozen_batchnorm": True}
    ),
    "no mining, no expansion, two episodes": Case({"mining": False, "expansion": False}, {"n_episodes": 2}),
    "ResNet-101": Case({"encoder": "resnet101"}, {"size_px": (33, 41)}),
}


def _network(case: Case) -> FewShotSeg:
    if "encoder" in case.options:
        return build_network(seed=3, encoder_weights=None, feature_width=8, **case.options)
    return make_network(tiny=False, **case.options).float()


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors of a nested output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for element in value:
            yield from _tensors(element)
    elif is_dataclass(value):
        for attribute in fields(value):
            yield from _tensors(getattr(value, attribute.name))


def _freeze(tensor: Tensor) -> tuple[str, Tensor]:
    flat = tensor.detach().contiguous().flatten()
    description = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    digest = hashlib.sha256(description + flat.view(torch.uint8).numpy().tobytes()).hexdigest()
    step = max(1, flat.numel() // N_VALUES)
    return digest, flat[::step].double().clone()


def _record_outputs(network: nn.Module, frozen: Frozen) -> None:
    """Keep what every named part with parameters, and the comparison, gives in each call."""
    calls: dict[str, int] = {}

    def keep(name: str, output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        for position, tensor in enumerate(_tensors(output)):
            frozen[f"{name} call {calls[name]} output {position}"] = _freeze(tensor)

    for name, module in network.named_modules():
        if name and next(module.parameters(), None) is not None:
            module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))


def freeze_case(case: Case) -> Frozen:
    """Compute all stages of a case, with the state after a step and the gradients of its losses."""
    network = _network(case).train(case.training)
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    support, masks, query, query_masks = (tensor.float() for tensor in make_batch(**case.batch))
    if case.masks != "drawn":
        masks = torch.full_like(masks, float(case.masks == "full"))
    query_masks[:, :, :5] = 255  # ignored
    seeds = torch.arange(len(support)) + 7 if case.seeds else None
    frozen: Frozen = {}
    _record_outputs(network, frozen)
    output = network(support, masks, query, prototype_seeds=seeds)
    losses = episode_losses(output, masks, query_masks)
    frozen |= {f"losses {i}": _freeze(tensor) for i, tensor in enumerate(_tensors(losses))}
    (losses.query + losses.alignment).mean().backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            frozen[f"gradient of {name}"] = _freeze(parameter.grad)
    frozen |= {f"state {name}": _freeze(tensor) for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        state = network.prepare_support(network.encoder.encode(support), masks, prototype_seeds=seeds)
        frozen |= {f"support {i}": _freeze(tensor) for i, tensor in enumerate(_tensors(state))}
        result = network.segment(state, network.encoder.encode(query), image_size=query.shape[-2:])
        stages = (result.probabilities, result.prior_masks)
        frozen |= {f"query {i}": _freeze(tensor) for i, tensor in enumerate(_tensors(stages))}
    return frozen


def differences(before: Frozen, after: Frozen) -> list[str]:
    """Describe what is not equal to the bit, with the largest difference relative to the tensor's scale."""
    result = [f"{name}: missing now" for name in before if name not in after]
    result += [f"{name}: new" for name in after if name not in before]
    for name in before.keys() & after.keys():
        (old_hash, old), (new_hash, new) = before[name], after[name]
        if old_hash == new_hash:
            continue
        relative = "another shape"
        if old.shape == new.shape:
            relative = f"{((old - new).abs().max() / old.abs().max().clamp(min=1e-30)).item():.1e}"
        result.append(f"{name}: differs, {relative}")
    return sorted(result)


def main() -> int:
    """Write or compare; code 1 where anything differs."""
    parser = argparse.ArgumentParser(description="freeze the network's outputs and gradients")
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    frozen = {name: freeze_case(case) for name, case in CASES.items()}
    if options.action == "write":
        torch.save(frozen, options.file)
        print(f"{sum(map(len, frozen.values()))} tensors of {len(frozen)} cases: {options.file}")
        return 0
    before, code = torch.load(options.file, weights_only=True), 0
    for name in before.keys() | frozen.keys():
        result = differences(before.get(name, {}), frozen.get(name, {}))
        code |= bool(result)
        print(f"{name}: {'equal to the bit' if not result else f'{len(result)} differ'}")
        print(*(f"  {line}" for line in result[:20]), sep="\n", end="\n" if result else "")
    return code


if __name__ == "__main__":
    sys.exit(main())
