"""The forms of the prior masks: by hand, against plain loops, and how gradients pass them."""

import pytest
import torch

from models import prior_masks
from models.few_shot_seg import FewShotSeg
from models.prior_masks import (
    PRIOR_FORMS,
    PRIOR_GRADIENTS,
    Contrast,
    PriorMasks,
    calibrated_margins,
    contrast_margins,
    make_prior_masks,
    measure_contrast,
    standardised_margins,
)
from models.similarity import Similarity
from tests.models import literal
from tests.models.prototype_cases import one_shot
from tests.models.small_network import losses_of, make_batch

N_EPISODES, WIDTH, GRID = 2, 5, (6, 7)


def _random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _prototypes(seed):
    valid = torch.tensor([[True, True, False], [True, False, False]])
    return one_shot(
        global_=_random(N_EPISODES, WIDTH, seed=seed),
        region=_random(N_EPISODES, 3, WIDTH, seed=seed + 1),
        valid=valid,
    )


@pytest.fixture(name="inputs")
def _inputs():
    return {
        "similarity": Similarity().double(),
        "prototypes": (_prototypes(10), _prototypes(20)),
        "features": _random(N_EPISODES, 2, WIDTH, *GRID, seed=0),
        "tau_support": _random(N_EPISODES, 2, seed=1),
        "tau_query": _random(N_EPISODES, 2, 2, seed=2),
        "contrast": Contrast(
            middle=torch.tensor([0.1, -0.2], dtype=torch.float64),
            half_gap=torch.tensor([0.3, 0.5], dtype=torch.float64),
        ),
    }


def _pooled(inputs, episode, query, features=None):
    """Pool the similarities to each class's prototypes at each position, plainly: background, foreground."""
    features = inputs["features"][episode, query] if features is None else features
    tau = inputs["tau_query"][episode, query]
    pooled = []
    for prototypes in inputs["prototypes"]:
        region = prototypes.region[episode][prototypes.valid[episode]]
        vectors = torch.cat([prototypes.global_[episode, None], region])
        similarity = literal.similarities(vectors, features, inputs["similarity"].alpha, magnitude=True)
        weights = (similarity * (1 + 10 * torch.sigmoid(tau[0]))).softmax(dim=0)
        pooled.append((weights * similarity).sum(dim=0))
    return pooled


def _standardise(values):
    return (values - values.mean()) / values.std(correction=0)


def _expected_margins(form, inputs, episode, query):
    background, foreground = _pooled(inputs, episode, query)
    if form == "literal":
        return 10 * background, 10 * foreground
    if form == "standardised":
        return _standardise(background), _standardise(foreground)
    difference = foreground - background
    if form == "contrast":
        return -_standardise(difference), _standardise(difference)
    contrast = inputs["contrast"]
    placed = (difference - contrast.middle[episode]) / contrast.half_gap[episode]
    return -placed, placed


@pytest.mark.parametrize("form", PRIOR_FORMS)
def test_each_form_equals_its_plain_reading(form, inputs):
    masks = make_prior_masks(**inputs, form=form)
    max_threshold = {"literal": None, "standardised": 2, "contrast": 2, "calibrated": 1}[form]
    for episode in range(N_EPISODES):
        tau = inputs["tau_support"][episode]
        thresholds = tau if max_threshold is None else max_threshold * torch.sigmoid(tau)
        for query in range(2):
            margins = _expected_margins(form, inputs, episode, query)
            background, foreground = (
                (margin > threshold).double().reshape(GRID)
                for margin, threshold in zip(margins, thresholds, strict=True)
            )
            assert torch.equal(masks.raw_background[episode, query], background)
            assert torch.equal(masks.raw_foreground[episode, query], foreground)
            assert torch.equal(masks.foreground[episode, query], foreground * (1 - background))
            assert torch.equal(masks.background[episode, query], background * (1 - foreground))
    if form != "literal":
        assert all(0.02 < area < 0.98 for area in masks.areas())  # else the comparison would prove little


def test_calibrated_margins_are_one_and_minus_one_at_the_supports_means():
    contrast = Contrast(middle=torch.tensor([0.5]), half_gap=torch.tensor([0.25]))
    foreground = torch.tensor([[[1.0, 0.75, 0.25]]])
    background = torch.tensor([[[0.25, 0.25, 0.0]]])
    of_background, of_foreground = calibrated_margins(background, foreground, contrast)
    assert of_foreground.tolist() == [[[1.0, 0.0, -1.0]]]
    assert of_background.tolist() == [[[-1.0, 0.0, 1.0]]]


def test_standardised_and_contrast_margins_by_hand():
    background, foreground = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[5.0, 9.0]]])
    for margins in standardised_margins(background, foreground, None):
        assert margins.flatten().tolist() == pytest.approx([-1, 1], abs=1e-4)
    of_background, of_foreground = contrast_margins(background, foreground, None)  # differences 4 and 6
    assert of_foreground.flatten().tolist() == pytest.approx([-1, 1], abs=1e-4)
    assert torch.equal(of_background, -of_foreground)


def test_similarities_that_are_equal_everywhere_give_finite_margins():
    same = torch.ones(1, 1, 4)
    for margins in (standardised_margins, contrast_margins):
        assert all(margin.tolist() == [[[0.0] * 4]] for margin in margins(same, same, None))


@pytest.mark.parametrize("form", ["standardised", "contrast", "calibrated"])
def test_no_threshold_can_be_driven_out_of_its_range(form, inputs):
    largest = {"standardised": 2, "contrast": 2, "calibrated": 1}[form]
    for tau, threshold in ((-1e4, 0), (1e4, largest)):
        inputs["tau_support"] = torch.full((N_EPISODES, 2), tau, dtype=torch.float64)
        result = make_prior_masks(**inputs, form=form).raw_foreground[1, 0]
        _, margin = _expected_margins(form, inputs, 1, 0)
        assert torch.equal(result, (margin > threshold).double().reshape(GRID))


def test_contrast_is_measured_by_the_supports_own_mask(inputs):
    features = _random(N_EPISODES, 2, WIDTH, *GRID, seed=5)
    masks = (_random(N_EPISODES, 2, *GRID, seed=6) > 0.5).double()
    masks[:, :, 0] = 0.25  # a rim
    tau = inputs["tau_support"]
    result = measure_contrast(
        inputs["similarity"], inputs["prototypes"], features, masks=masks, tau_support=tau
    )
    for episode in range(N_EPISODES):
        inputs["tau_query"][episode, 0] = tau[episode]
        differences, shares = [], []
        for shot in range(2):
            background, foreground = _pooled(inputs, episode, 0, features[episode, shot])
            differences += (foreground - background).flatten().tolist()
            shares += masks[episode, shot].flatten().tolist()
        pairs = list(zip(differences, shares, strict=True))
        inside = sum(d * s for d, s in pairs) / sum(shares)
        outside = sum(d * (1 - s) for d, s in pairs) / sum(1 - s for s in shares)
        assert result.middle[episode].item() == pytest.approx((inside + outside) / 2, abs=1e-5)
        expected = max((inside - outside) / 2, prior_masks.MIN_GAP)
        assert result.half_gap[episode].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_support_without_one_of_the_classes_has_a_finite_contrast(share, inputs):
    masks = torch.full((N_EPISODES, 2, *GRID), share, dtype=torch.float64)
    result = measure_contrast(
        inputs["similarity"],
        inputs["prototypes"],
        inputs["features"],
        masks=masks,
        tau_support=inputs["tau_support"],
    )
    assert torch.isfinite(result.middle).all()
    assert (result.half_gap >= prior_masks.MIN_GAP).all()


def test_constant_masks_pass_no_gradient(inputs):
    inputs["features"].requires_grad_()
    assert not make_prior_masks(**inputs, form="calibrated").foreground.requires_grad


def test_straight_through_masks_are_hard_with_the_soft_ones_gradient(inputs):
    gradients = {}
    for gradient in ("none", "straight_through", "soft"):
        inputs["tau_support"] = inputs["tau_support"].detach().requires_grad_()
        masks = make_prior_masks(**inputs, form="contrast", gradient=gradient)
        if gradient == "none":
            hard = masks.raw_foreground
            continue
        masks.raw_foreground.sum().backward()
        gradients[gradient] = inputs["tau_support"].grad
        is_hard = torch.equal(masks.raw_foreground, hard)
        assert is_hard is (gradient == "straight_through")
    assert torch.allclose(gradients["straight_through"], gradients["soft"])
    assert (gradients["soft"][:, 1] < 0).all()  # a higher threshold, a smaller mask
    assert (gradients["soft"][:, 0] == 0).all()


def test_agreement_by_hand():
    truth = torch.zeros(1, 1, 2, 4)
    truth[..., :2] = 1  # half of the image
    foreground = torch.zeros(1, 1, 2, 4)
    foreground[..., 1:3] = 1
    masks = PriorMasks(foreground, foreground, background=torch.zeros(1, 1, 2, 4), foreground=foreground)
    background_dice, foreground_dice, chance = masks.agreement(truth).tolist()
    assert background_dice == 0
    assert foreground_dice == pytest.approx(0.5, abs=1e-4)  # 2 * 2 / (4 + 4)
    assert chance == pytest.approx(0.5, abs=1e-4)  # 2 * 0.5 * 0.5 / (0.5 + 0.5)


def test_pixels_to_ignore_count_as_background_in_the_agreement():
    truth = torch.full((1, 1, 4, 4), 255)
    ones = torch.ones(1, 1, 4, 4)
    assert PriorMasks(ones, ones, ones, ones).agreement(truth).tolist() == pytest.approx([1, 0, 0], abs=1e-4)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"prior_form": "new"}, "prior_form must be one of literal, .*, got 'new'"),
        ({"prior_gradient": "new"}, "prior_gradient must be one of none, straight_through, soft, got 'new'"),
        ({"norm": "new"}, "norm must be one of batch, group, got 'new'"),
    ],
)
def test_an_unknown_choice_is_named(option, message):
    with pytest.raises(ValueError, match=message):
        FewShotSeg(encoder="resnet18", feature_width=4, **option)


@pytest.mark.parametrize("form", PRIOR_FORMS)
@pytest.mark.parametrize("gradient", PRIOR_GRADIENTS)
def test_every_form_trains_and_an_episode_is_what_it_would_be_alone(form, gradient):
    torch.manual_seed(3)
    model = FewShotSeg(
        encoder="resnet18", feature_width=8, prior_form=form, prior_gradient=gradient, frozen_batchnorm=True
    ).eval()
    batch = [tensor.float() for tensor in make_batch(2, size_px=(40, 41))]
    together = losses_of(model, *batch)
    (together.query + together.alignment).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    for episode in range(2):
        alone = losses_of(model, *(tensor[episode, None] for tensor in batch))
        assert alone.query.item() == pytest.approx(together.query[episode].item(), rel=1e-4)
