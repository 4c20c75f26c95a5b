"""Start the encoder from pretrained weights, wholly or with an error."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from models.encoder import Encoder

PUBLISHED = ("deeplabv3_coco", "imagenet")

_ENUMS = {
    ("deeplabv3_coco", "resnet101"): "DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1",
    ("deeplabv3_coco", "resnet50"): "DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1",
    ("imagenet", "resnet101"): "ResNet101_Weights.IMAGENET1K_V1",
    ("imagenet", "resnet50"): "ResNet50_Weights.IMAGENET1K_V1",
    ("imagenet", "resnet18"): "ResNet18_Weights.IMAGENET1K_V1",
}


class WeightsError(ValueError):
    """Encoder weights that cannot be had or do not fit.

    The message is one line for the user.
    """


def load_encoder_weights(encoder: Encoder, source: str) -> None:
    """Load pretrained weights into the whole backbone.

    Args:
        encoder: changed in place; its reducing convolution and threshold layer keep their start.
        source: `deeplabv3_coco`, `imagenet`, or the path of a torchvision state dict, of a ResNet or of a
            DeepLabV3 (whose `backbone.*` is taken). Published files are downloaded and hash-checked once.
            A DeepLabV3 holds no classifier: that one linear layer then keeps PyTorch's default start.

    Raises:
        WeightsError: no network, no such file, not a state dict, or a backbone tensor left without a match.
    """
    state = _published_state(encoder.name, source) if source in PUBLISHED else _file_state(Path(source))
    _load_whole(encoder.backbone, state, source=source)


def _published_state(name: str, source: str) -> Mapping[str, Tensor]:
    if (source, name) not in _ENUMS:
        raise WeightsError(
            f"model.encoder_weights={source}: torchvision publishes none for {name}; choose another encoder, "
            "model.encoder_weights=imagenet or model.encoder_weights=None"
        )
    family, member = _ENUMS[source, name].split(".")
    models = torchvision.models.segmentation if family.startswith("DeepLab") else torchvision.models
    weights = getattr(models, family)[member]
    file_name = weights.url.rsplit("/", 1)[-1]
    target = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    try:
        return weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (URLError, OSError) as error:
        raise WeightsError(
            f"model.encoder_weights={source}: {file_name} could not be downloaded "
            f"({getattr(error, 'reason', error)}); "
            f"put it at {target} by hand ({weights.url}) or train from scratch with "
            "model.encoder_weights=None"
        ) from error
    except Exception as error:  # a damaged file raises errors of many kinds
        raise WeightsError(
            f"{target}: is damaged or not the published file ({_first_line(error)}); delete it to have it "
            "downloaded again"
        ) from error


def _file_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"model.encoder_weights={path}: must be {', '.join(PUBLISHED)}, None or an existing file; "
            "found none there"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or unsafe file raises errors of many kinds
        raise WeightsError(
            f"{path}: is not a file of plain tensors ({_first_line(error)}); "
            "save a state_dict with torch.save"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(
            f"{path}: must hold a state dict (names to tensors), as torch.save(net.state_dict())"
        )
    return state


def _load_whole(backbone: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    prefix = "backbone."
    from_segmenter = any(key.startswith(prefix) for key in state)
    if from_segmenter:
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    wanted = backbone.state_dict()
    # The classifier is absent from every segmenter; the batch counters are absent from old files and unused.
    spared = {"fc.weight", "fc.bias"} if from_segmenter else set()
    spared |= {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = sorted(wanted.keys() - state.keys() - spared)
    unknown = sorted(state.keys() - wanted.keys())
    misshapen = sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape)
    for kind, keys in (("lacks", missing), ("has unknown", unknown), ("has another shape for", misshapen)):
        if keys:
            raise WeightsError(
                f"model.encoder_weights={source}: the file {kind} {len(keys)} of the backbone's tensors, "
                f"first {keys[0]}; use weights made for this encoder"
            )
    backbone.load_state_dict({**wanted, **state})


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's text advises to load it all the same
        return "it holds more than plain tensors"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
