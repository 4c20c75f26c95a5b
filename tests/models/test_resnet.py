"""Folding BatchNorm changes the weights and not the features."""

import pytest
import torch
from torch import nn

from models.encoder import Encoder, calibrate_batchnorm


def _images():
    return torch.randn(2, 1, 33, 29, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_and_tau_stay_and_every_norm_goes(name):
    torch.manual_seed(0)
    encoder = Encoder(name=name, feature_width=8)
    for norm in (module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    calibrate_batchnorm(encoder, [_images()])
    encoder.eval()
    with torch.no_grad():
        expected = encoder(_images())
        encoder.backbone.fold_batchnorm()
        result = encoder(_images())
    assert not [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for value, reference in zip(result, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item())


def test_a_norm_in_training_is_refused():
    with pytest.raises(AssertionError, match="eval"):
        Encoder(name="resnet18", feature_width=8).train().backbone.fold_batchnorm()
