"""A small network and small episodes on which the tests of the whole network run, in float64."""

import torch
import torch.nn.functional as F
from torch import nn

from models.encoder import calibrate_batchnorm
from models.few_shot_seg import FewShotSeg
from models.losses import episode_losses
from tests.models.prototype_cases import disc

WIDTH = 8
# Near the medians of ten times the pooled similarities, so that neither refined prior is empty.
THRESHOLDS = {"tiny": (10.5, 10.3), "resnet18": (8.1, 7.9)}
BRIGHTNESS = 0.1  # of support images, minus that of query images


def smooth(*shape, size_px, seed):
    """Blurred noise, so that features differ from place to place as they do on scans."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*shape, 7, 7, generator=generator, dtype=torch.float64)
    fine = F.interpolate(coarse.flatten(0, 1), size=size_px, mode="bilinear", align_corners=True)
    return (fine - fine.mean(dim=(1, 2, 3), keepdim=True)).unflatten(0, shape[:2])


def make_batch(n_episodes=1, n_shots=1, n_queries=1, *, size_px=(65, 71), seed=0):
    """Support images and masks, query images and masks; support images are bright (`_raise_thresholds`)."""
    support = smooth(n_episodes, n_shots, 1, size_px=size_px, seed=seed) + BRIGHTNESS
    query = smooth(n_episodes, n_queries, 1, size_px=size_px, seed=seed + 1) - BRIGHTNESS
    support_masks = torch.stack(
        [
            torch.stack([disc(size_px, (25 + 5 * e, 30 + 6 * s), 9 + 2 * s) for s in range(n_shots)])
            for e in range(n_episodes)
        ]
    )
    query_masks = torch.stack(
        [
            torch.stack([disc(size_px, (28 + 3 * e, 33 + 4 * q), 10) for q in range(n_queries)])
            for e in range(n_episodes)
        ]
    )
    return support, support_masks, query, query_masks


def _raise_thresholds(thresholds):
    """Stand in for a trained threshold head: support images, the bright ones, get thresholds that work."""

    def hook(_module, inputs, outputs):
        features, tau = outputs
        is_support = inputs[0].mean(dim=(1, 2, 3)) > 0
        raised = torch.where(is_support[:, None], tau.new_tensor(thresholds), tau.new_tensor((-1.0, 0.3)))
        return features, tau + raised

    return hook


class _TinyBackbone(nn.Module):
    """A backbone of a residual network's strides, small enough for float64 on a CPU."""

    n_channels, n_outputs = 24, 1000

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(16), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2 = nn.Sequential(), nn.Sequential()
        self.layer3 = nn.Sequential(
            nn.Conv2d(16, 24, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.layer4 = nn.Sequential(nn.Conv2d(24, 20, kernel_size=3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(20, 1000)

    @property
    def feature_stages(self):
        return self.layer1, self.layer2, self.layer3

    @property
    def classifier_stage(self):
        return self.layer4

    def stem(self, images):
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def classify(self, pooled):
        return self.fc(pooled)

    def run_block(self, block, x):
        return block(x)

    def autocast_modules(self):
        return [self.conv1, self.layer3, self.layer4]

    def fold_batchnorm(self):
        """Leave it: nothing is to be gained here."""


def make_network(*, tiny=True, **switches):
    torch.manual_seed(4)
    model = FewShotSeg(encoder="resnet18", feature_width=WIDTH, **switches)
    if tiny:
        model.encoder.backbone = _TinyBackbone()
        model.encoder.reduce = nn.Conv2d(24, WIDTH, kernel_size=1, bias=False)
    model = model.double()
    images = smooth(4, 1, 1, size_px=(33, 33), seed=9)[:, 0]
    calibrate_batchnorm(model.encoder, [images])
    with torch.no_grad():
        # Keeps features near unit size, where magnitudes and attentions are neither flat nor saturated.
        features, _ = model.eval().encoder(images)
        model.encoder.reduce.weight.mul_(0.7 / features.std())
        for name, parameter in model.named_parameters():
            if name.startswith(("mining.", "matching.", "similarity.")):
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
                if name.endswith("cls.3.weight"):
                    parameter.mul_(10)
    model.encoder.register_forward_hook(_raise_thresholds(THRESHOLDS["tiny" if tiny else "resnet18"]))
    return model.train(False)


def losses_of(model, support, support_masks, query, query_masks, *, prototype_seeds=None):
    """Segment episodes in both directions and compute their losses."""
    output = model(support, support_masks, query, prototype_seeds=prototype_seeds)
    return episode_losses(output, support_masks, query_masks)
