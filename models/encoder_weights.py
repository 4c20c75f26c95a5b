"""Start the encoder from pretrained weights, wholly or with an error."""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from models.encoder import Encoder
from models.resnet import PUBLISHED_WEIGHTS, find_published

PUBLISHED = tuple(dict.fromkeys(source for source, _ in PUBLISHED_WEIGHTS))

_BLOCK_BYTES = 1 << 20
_N_NAMED = 3  # of tensors that do not fit


class WeightsError(ValueError):
    """Encoder weights that are unavailable or do not fit.

    The message is one line for the user.
    """


def load_encoder_weights(encoder: Encoder, source: str) -> None:
    """Load pretrained weights into the whole backbone.

    Args:
        encoder: changed in place; its reducing convolution and threshold layer keep their initial values.
        source: `deeplabv3_coco`, `imagenet`, or the path of a torchvision state dict, of a ResNet or of a
            DeepLabV3 (whose `backbone.*` is taken). Published files are downloaded and hash-checked once.
            A DeepLabV3 holds no classifier: that linear layer keeps PyTorch's default initialisation.

    Raises:
        WeightsError: no network, no such file, a damaged one, not a state dict, tensors that are not finite
            numbers, or a backbone tensor left without a match.
    """
    state = _published_state(encoder.name, source) if source in PUBLISHED else _file_state(Path(source))
    _load_whole(encoder.backbone, state, source=source)


def _published_state(name: str, source: str) -> Mapping[str, Tensor]:
    weights = find_published(source, name)
    if weights is None:
        raise WeightsError(
            f"model.encoder_weights={source}: torchvision publishes none for {name}; choose another encoder, "
            "model.encoder_weights=imagenet or model.encoder_weights=None"
        )
    file_name = weights.url.rsplit("/", 1)[-1]
    target = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    try:
        if target.is_file():  # torchvision checks what it downloads alone
            _require_published(target)
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
        _require_checksums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or unsafe file raises errors of many kinds
        raise WeightsError(
            f"{path}: is damaged or not a file of plain tensors ({_first_line(error)}); "
            "copy it again, or save a state_dict with torch.save"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        description = (
            f"keys {_named(list(map(str, state)))}" if isinstance(state, Mapping) else type(state).__name__
        )
        raise WeightsError(
            f"{path}: must hold a state dict (names to tensors), as torch.save(net.state_dict()), got "
            f"{description}"
        )
    return state


def _require_published(path: Path) -> None:
    """Compare a file with the hash that its name ends in; raises ValueError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK_BYTES), b""):
            digest.update(block)
    if not digest.hexdigest().startswith(path.stem.rsplit("-", 1)[-1]):
        raise ValueError("its hash differs")


def _require_checksums(path: Path) -> None:
    """Compare a zip file's checksums, which PyTorch passes over; raises ValueError."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} differs")


def _load_whole(backbone: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    wrapped = "module."  # what DataParallel puts before every name
    if state and all(key.startswith(wrapped) for key in state):
        state = {key.removeprefix(wrapped): tensor for key, tensor in state.items()}
    prefix = "backbone."
    from_segmenter = any(key.startswith(prefix) for key in state)
    if from_segmenter:
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    expected = backbone.state_dict()
    # The classifier is absent from every segmenter; the batch counters are absent from old files and unused.
    optional = {"fc.weight", "fc.bias"} if from_segmenter else set()
    optional |= {key for key in expected if key.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - state.keys() - optional)
    unknown = sorted(state.keys() - expected.keys())
    common = sorted(expected.keys() & state.keys())
    misshapen = [key for key in common if expected[key].shape != state[key].shape]
    fitting = set(common) - set(misshapen)  # of others a few numbers may claim any size
    unusable = [key for key in common if key in fitting and not _is_usable(state[key], like=expected[key])]
    too_wide = [key for key in common if key in fitting and state[key].dtype == torch.float64]
    for fault, keys in (
        ("lacks {} of the encoder's tensors", missing),
        ("has {} tensor(s) that the encoder lacks", unknown),
        ("has other shapes for {} of the encoder's tensors", misshapen),
        ("has no plain finite numbers in {} of the encoder's tensors", unusable),
        ("has float64 numbers, which would be rounded, in {} of the encoder's tensors", too_wide),
    ):
        if keys:
            raise WeightsError(
                f"model.encoder_weights={source}: the file {fault.format(len(keys))} ({_named(keys)}); use "
                "weights made for this encoder"
            )
    backbone.load_state_dict({**expected, **state})


def _is_usable(tensor: Tensor, *, like: Tensor) -> bool:
    is_alike = tensor.layout == torch.strided and tensor.is_floating_point() == like.is_floating_point()
    return is_alike and not tensor.is_complex() and bool(torch.isfinite(tensor).all())


def _named(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_N_NAMED]) + (f" and {len(keys) - _N_NAMED} more" if len(keys) > _N_NAMED else "")


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's text advises to load it all the same
        return "it holds more than plain tensors"
    # The first sentence: the rest is PyTorch's guess of what may have happened.
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
