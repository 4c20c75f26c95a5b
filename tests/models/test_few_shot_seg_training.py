"""What a training step changes and reaches, and what it must leave alone."""

import pytest
import torch

from models.encoder import Encoded
from models.few_shot_seg import FewShotSeg
from tests.models.small_network import losses_of, make_batch, make_network


def test_every_parameter_learns_in_a_training_step():
    model = make_network(tiny=False).train()
    losses = losses_of(model, *make_batch(2), prototype_seeds=torch.tensor([0, 1]))
    (losses.query + losses.alignment).mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_support_thresholds_get_no_gradient_through_the_hard_masks(model):
    support, masks, query, _ = make_batch()
    shots, queries = model.encoder.encode(support), model.encoder.encode(query)
    tau = shots.tau.detach().requires_grad_()
    state = model.prepare_support(Encoded(features=shots.features, tau=tau), masks)
    result = model.segment(state, queries, image_size=query.shape[-2:])
    assert torch.autograd.grad(result.probabilities[:, :, 1].sum(), tau, allow_unused=True) == (None,)


def _changed(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(("frozen", "changes"), [(False, True), (True, False)])
def test_training_changes_batchnorm_statistics_alone_and_frozen_ones_not(frozen, changes):
    model = make_network(frozen_batchnorm=frozen).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(vars(model))
    losses_of(model, *make_batch())
    changed = _changed(model, before)
    assert bool(changed) is changes
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)
    assert set(vars(model)) == attributes


def test_evaluation_changes_nothing_and_repeats_itself(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    with torch.no_grad():
        first, second = (model.predict(*make_batch()[:3]) for _ in range(2))
    assert torch.equal(first, second)
    assert not _changed(model, before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_batchnorm_trains_on_support_and_query_together():
    model, batch = make_network().train(), make_batch()
    means = []
    model.encoder.backbone.bn1.register_forward_pre_hook(lambda _m, inputs: means.append(len(inputs[0])))
    losses_of(model, *batch)
    assert means == [2]


def test_frozen_batchnorm_holds_right_after_construction():
    model = FewShotSeg(encoder="resnet18", feature_width=4, frozen_batchnorm=True)
    assert not model.encoder.backbone.bn1.training


def test_frozen_batchnorm_survives_a_change_of_modes():
    model = FewShotSeg(encoder="resnet18", feature_width=4, frozen_batchnorm=True)
    assert model.eval().train() is model
    assert model.training
    assert model.matching.decoder_fg.merge.training
    assert not model.encoder.backbone.layer4[1].bn2.training


def test_inputs_stay_as_they_were(model):
    batch = make_batch(2, 2)
    copies = [tensor.clone() for tensor in batch]
    with torch.no_grad():
        losses_of(model, *batch)
        model.predict(*batch[:3])
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(batch, copies, strict=True))
