"""Pretrained weights: whole loads, and errors in place of partial ones. Nothing here touches the network."""

import contextlib
import pickle
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
import torch
import torchvision

from models.encoder import Encoder
from models.encoder_weights import PUBLISHED, WeightsError, load_encoder_weights

SEGMENTERS = torchvision.models.segmentation
COMBINATIONS = {
    ("deeplabv3_coco", "resnet101"): SEGMENTERS.DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1,
    ("deeplabv3_coco", "resnet50"): SEGMENTERS.DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1,
    ("imagenet", "resnet101"): torchvision.models.ResNet101_Weights.IMAGENET1K_V1,
    ("imagenet", "resnet50"): torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
    ("imagenet", "resnet18"): torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
}


@pytest.fixture(name="encoder")
def _encoder():
    return Encoder(name="resnet18", feature_width=4)


@pytest.fixture(name="state", scope="module")
def _state():
    """A ResNet-18's state dict in which no tensor equals a fresh one's."""
    torch.manual_seed(1)
    state = torchvision.models.resnet18(weights=None).state_dict()
    return {name: value + 0.5 if value.is_floating_point() else value + 3 for name, value in state.items()}


def _snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def _assert_unchanged(module, before):
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def _saved(tmp_path, state):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    return str(path)


def test_what_data_parallel_puts_before_the_names_is_left_out(encoder, state, tmp_path):
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    load_encoder_weights(encoder, _saved(tmp_path, wrapped))
    loaded = encoder.backbone.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_tensor_that_claims_more_than_memory_is_refused_by_its_shape(encoder, state, tmp_path):
    huge = torch.zeros(1).expand(1 << 36)
    with pytest.raises(WeightsError, match=r"other shapes for 1 of the encoder's tensors \(conv1\.weight\)"):
        load_encoder_weights(encoder, _saved(tmp_path, {**state, "conv1.weight": huge}))


def test_a_resnet_file_is_loaded_whole(encoder, state, tmp_path):
    before = _snapshot(encoder)
    load_encoder_weights(encoder, _saved(tmp_path, state))
    loaded = encoder.backbone.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    for name in ("reduce.weight", "threshold.weight", "threshold.bias"):
        assert torch.equal(encoder.state_dict()[name], before[name])


def test_a_segmenter_file_is_loaded_whole_but_for_the_classifier(tmp_path):
    with torch.device("meta"):
        net = SEGMENTERS.deeplabv3_resnet50(
            weights=None, weights_backbone=None, num_classes=21, aux_loss=True
        )
    # One number per tensor, expanded to its shape, keeps the file small.
    state = {
        name: torch.tensor(number, dtype=value.dtype).expand(value.shape)
        for number, (name, value) in enumerate(net.state_dict().items(), start=2)
    }
    assert {name.split(".")[0] for name in state} == {"backbone", "classifier", "aux_classifier"}
    assert not any(name.startswith("backbone.fc") for name in state)
    encoder = Encoder(name="resnet50", feature_width=4)
    before = _snapshot(encoder)
    load_encoder_weights(encoder, _saved(tmp_path, state))
    for name, value in encoder.state_dict().items():
        expected = state.get(name, before[name])
        assert torch.equal(value, expected), name
    untouched = {name for name in before if name not in state}
    assert untouched == {
        *("backbone.fc.weight", "backbone.fc.bias", "reduce.weight", "threshold.weight", "threshold.bias")
    }


def test_batch_counters_may_be_absent_as_in_old_files(encoder, state, tmp_path):
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    load_encoder_weights(encoder, _saved(tmp_path, old))
    assert torch.equal(encoder.backbone.bn1.running_mean, state["bn1.running_mean"])


@pytest.mark.parametrize("key", ["conv1.weight", "layer4.1.bn2.running_var", "fc.bias"])
def test_a_missing_tensor_is_an_error_that_names_it(encoder, state, tmp_path, key):
    before = _snapshot(encoder)
    with pytest.raises(
        WeightsError, match=rf"weights\.pth: the file lacks 1 of the encoder's tensors \({key}\); use weights"
    ):
        load_encoder_weights(encoder, _saved(tmp_path, {n: v for n, v in state.items() if n != key}))
    _assert_unchanged(encoder, before)


def test_a_segmenter_without_one_backbone_tensor_is_an_error(encoder, state, tmp_path):
    lacking = {f"backbone.{n}": v for n, v in state.items() if not n.startswith(("fc.", "layer3.0.conv1"))}
    with pytest.raises(WeightsError, match=r"lacks 1 of .* \(layer3\.0\.conv1\.weight\)"):
        load_encoder_weights(encoder, _saved(tmp_path, lacking))


def test_an_unknown_tensor_is_an_error_that_names_it(encoder, state, tmp_path):
    before = _snapshot(encoder)
    with pytest.raises(WeightsError, match=r"has 1 tensor\(s\) that the encoder lacks \(layer5\.weight\)"):
        load_encoder_weights(encoder, _saved(tmp_path, {**state, "layer5.weight": torch.zeros(3)}))
    _assert_unchanged(encoder, before)


def test_a_misshapen_tensor_is_an_error_that_names_it(encoder, state, tmp_path):
    before = _snapshot(encoder)
    with pytest.raises(WeightsError, match=r"other shapes for 1 of .* \(conv1\.weight\)"):
        load_encoder_weights(encoder, _saved(tmp_path, {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}))
    _assert_unchanged(encoder, before)


@pytest.mark.parametrize(
    "bad", [torch.zeros(64).long(), torch.full((64,), torch.nan), torch.zeros(64).to_sparse()], ids=str
)
def test_a_tensor_without_plain_finite_numbers_is_an_error(encoder, state, tmp_path, bad):
    before = _snapshot(encoder)
    with pytest.raises(WeightsError, match=r"no plain finite numbers in 1 of .* \(bn1\.bias\)"):
        load_encoder_weights(encoder, _saved(tmp_path, {**state, "bn1.bias": bad}))
    _assert_unchanged(encoder, before)


def test_wider_numbers_are_not_rounded_in_silence(encoder, state, tmp_path):
    before = _snapshot(encoder)
    with pytest.raises(WeightsError, match=r"float64 numbers.* in 1 of .* \(bn1\.bias\)"):
        load_encoder_weights(encoder, _saved(tmp_path, {**state, "bn1.bias": state["bn1.bias"].double()}))
    _assert_unchanged(encoder, before)


def test_half_precision_is_read(encoder, state, tmp_path):
    halved = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    load_encoder_weights(encoder, _saved(tmp_path, halved))
    assert torch.equal(encoder.backbone.state_dict()["bn1.bias"], state["bn1.bias"].half().float())


def test_of_many_missing_tensors_the_first_and_their_number_are_named(encoder, state, tmp_path):
    lacking = {name: value for name, value in state.items() if "layer3" not in name}
    names = r"layer3\.0\.bn1\.bias, layer3\.0\.bn1\.running_mean, layer3\.0\.bn1\.running_var and 22 more"
    with pytest.raises(WeightsError, match=rf"lacks 25 of the encoder's tensors \({names}\)"):
        load_encoder_weights(encoder, _saved(tmp_path, lacking))


def test_a_flipped_bit_is_noticed(encoder, state, tmp_path):
    path = Path(_saved(tmp_path, state))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"the checksum of .* differs"):
        load_encoder_weights(encoder, str(path))


def test_another_encoders_weights_are_an_error(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    encoder = Encoder(name="resnet50", feature_width=4)
    with pytest.raises(WeightsError, match="use weights made for this encoder"):
        load_encoder_weights(encoder, _saved(tmp_path, state))


def test_a_missing_path_lists_the_valid_values(encoder, tmp_path):
    path = tmp_path / "nowhere.pth"
    with pytest.raises(
        WeightsError, match=r"nowhere\.pth: must be deeplabv3_coco, imagenet, None or an existing"
    ):
        load_encoder_weights(encoder, str(path))


def test_a_folder_is_no_weights_file(encoder, tmp_path):
    with pytest.raises(WeightsError, match="existing file"):
        load_encoder_weights(encoder, str(tmp_path))


@pytest.mark.parametrize("content", [b"these are not weights\n", b"", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_torch_file_is_refused_in_one_line(encoder, tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"weights\.pth: is damaged or not a file of plain tensors"
    ) as caught:
        load_encoder_weights(encoder, str(path))
    assert "\n" not in str(caught.value)


class _Trap:
    """Leaves a mark when unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def _save_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, _save_pickle], ids=["torch file", "plain pickle"])
def test_code_in_a_file_is_refused_and_not_run(encoder, tmp_path, save):
    path, mark = tmp_path / "weights.pth", tmp_path / "ran"
    save({"conv1.weight": _Trap(mark)}, path)
    with pytest.raises(WeightsError, match="is damaged or not a file of plain tensors") as caught:
        load_encoder_weights(encoder, str(path))
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    with contextlib.suppress(RuntimeError):  # torch calls a plain pickle corrupt, but only after running it
        torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(3), {"state_dict": {"conv1.weight": torch.zeros(1)}}, {1: torch.zeros(3)}]
)
def test_a_file_that_holds_something_else_is_refused(encoder, tmp_path, content):
    with pytest.raises(WeightsError, match="must hold a state dict"):
        load_encoder_weights(encoder, _saved(tmp_path, content))


@pytest.mark.parametrize(("source", "name"), COMBINATIONS)
def test_published_names_mean_torchvisions_weights(monkeypatch, source, name):
    calls = []

    def get_state_dict(weights, **kwargs):
        calls.append((weights, kwargs))
        return {}

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    with torch.device("meta"):
        encoder = Encoder(name=name, feature_width=4)
    with pytest.raises(WeightsError, match=f"encoder_weights={source}: the file lacks"):
        load_encoder_weights(encoder, source)
    ((weights, kwargs),) = calls
    assert weights is COMBINATIONS[source, name]
    assert kwargs["check_hash"] is True
    assert kwargs["map_location"] == "cpu"


def test_the_combinations_above_are_all_there_are(encoder):
    assert {source for source, _ in COMBINATIONS} == set(PUBLISHED)
    with pytest.raises(
        WeightsError, match=r"deeplabv3_coco: torchvision publishes none for resnet18; .*=None"
    ):
        load_encoder_weights(encoder, "deeplabv3_coco")


@pytest.mark.parametrize(
    "error",
    [
        URLError("Name or service not known"),
        HTTPError("https://somewhere", 503, "unavailable", {}, None),
        ConnectionResetError("reset"),
        TimeoutError("timed out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_a_network_the_error_names_file_folder_and_hint(monkeypatch, tmp_path, encoder, error):
    def no_network(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    before = _snapshot(encoder)
    with pytest.raises(WeightsError) as caught:
        load_encoder_weights(encoder, "imagenet")
    message = str(caught.value)
    file_name = COMBINATIONS["imagenet", "resnet18"].url.rsplit("/", 1)[-1]
    assert f"{file_name} could not be downloaded" in message
    assert str(tmp_path / "checkpoints" / file_name) in message
    assert "encoder_weights=None" in message
    assert "\n" not in message
    _assert_unchanged(encoder, before)


def test_a_file_put_there_by_hand_is_read_without_a_network(monkeypatch, tmp_path, encoder, state):
    file_name = COMBINATIONS["imagenet", "resnet18"].url.rsplit("/", 1)[-1]
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / file_name
    torch.save(state, path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match=rf"{file_name}: is damaged .* \(its hash differs\); delete"):
        load_encoder_weights(encoder, "imagenet")
    monkeypatch.setattr("models.encoder_weights._require_published", lambda path: None)
    load_encoder_weights(encoder, "imagenet")
    assert torch.equal(encoder.backbone.conv1.weight, state["conv1.weight"])


def test_a_damaged_published_file_is_named(monkeypatch, tmp_path, encoder):
    file_name = COMBINATIONS["imagenet", "resnet18"].url.rsplit("/", 1)[-1]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / file_name).write_bytes(b"half a downl")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match=rf"{file_name}: is damaged .* delete it"):
        load_encoder_weights(encoder, "imagenet")
