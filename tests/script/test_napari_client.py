"""The client for napari: its calls to a server, axes and spacing of layers, and the widget."""

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from script import napari_client
from script.server import __main__ as command
from tests.oriented_scans import is_bright, l_scan

for package in ("fastapi", "multipart", "uvicorn"):
    pytest.importorskip(package, reason=f"see {command.REQUIREMENTS}")
from tests.script.serving import serving  # noqa: E402

CLOSED = "http://127.0.0.1:9"  # nothing listens on the port of RFC 863


def make_layers(letters):
    scan = l_scan(letters)
    image = SimpleNamespace(
        data=scan.voxels,
        scale=np.array(scan.geometry.spacing_mm),
        **dict.fromkeys(("translate", "rotate", "shear")),
        affine=SimpleNamespace(affine_matrix=np.eye(4)),
        name=f"scan {letters}",
    )
    return image, SimpleNamespace(**vars(image) | {"data": 3 * is_bright(scan).astype(np.int64)})


def test_the_client_for_napari_gets_a_layer_s_label_map():
    with serving(token="abc") as url:
        client = napari_client.Client(f"{url}#token=abc")
        assert client.load("net")["model"] == "net"
        image, mask = make_layers("LPS")
        line = napari_client.set_support_layers(client, image, mask, labels="3:liver")
        assert line == "scan LPS (5 x 1.5 x 1.5 mm) shows liver"
        label_map, options, line = napari_client.segment_layer(client, image)
        assert np.array_equal(label_map, mask.data)
        assert options["name"] == "scan LPS mask"
        assert line == f"scan LPS: liver {mask.data.astype(bool).sum() * 11.25 / 1000:.1f} ml; check the mask"
        with pytest.raises(napari_client.ServerError, match="model=none: must be one of net"):
            client.load("none")
        with pytest.raises(napari_client.ServerError, match="larger than max_upload_mb=10"):
            client.segment(bytes(20_000_000), name="large")
        with pytest.raises(napari_client.ServerError, match="token missing or wrong"):
            napari_client.Client(url).status()
    with pytest.raises(napari_client.ServerError, match="no answer"):
        client.status()
    with pytest.raises(napari_client.ServerError, match="must be the address that the server prints"):
        napari_client.Client("127.0.0.1:8765")


def test_the_spacing_of_a_layer_is_that_of_its_scale_and_its_affine():
    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, 2], [0, -1, 0], [3, 0, 0]]
    turned[:3, 3] = 7
    layer, _ = make_layers("LPS")
    layer.affine = SimpleNamespace(affine_matrix=turned)
    assert napari_client.find_spacing_mm(layer) == (15.0, 1.5, 3.0)


def test_errors_are_shown_in_place_of_a_result():
    def segment(client):
        return napari_client.segment_layer(client, None)[-1]

    for url, action, line in (
        (CLOSED, segment, "choose a layer for the scan"),
        ("https://x", segment, "https://x: must be the address that"),
        (CLOSED, napari_client.Client.status, "127.0.0.1:9: no answer"),
    ):
        assert napari_client.call_server(url, action).startswith(line)


@pytest.mark.parametrize(("letters", "codes"), [("LPS", "LPS"), ("RSA", "RSA"), ("PIR", "PIR")])
def test_layers_keep_their_axes_and_spacing(letters, codes):
    voxels = np.arange(24).reshape(2, 3, 4)
    image = nibabel.Nifti1Image.from_bytes(napari_client.to_nifti(voxels, (5.0, 2.0, 1.0), letters))
    assert "".join(nibabel.aff2axcodes(image.affine)) == codes
    assert image.header.get_zooms() == (1.0, 2.0, 5.0)
    assert np.array_equal(np.asarray(image.dataobj).T, voxels)
    for axes in ("LLS", "LP", "XYZ"):
        with pytest.raises(napari_client.ServerError, match="layers must be 3D with axes such as LPS"):
            napari_client.to_nifti(voxels, (5.0, 2.0, 1.0), axes)


@pytest.fixture(name="viewer")
def _viewer(monkeypatch):
    """The model of a viewer, without its window."""
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    for package in ("napari", "magicgui", "qtpy"):
        pytest.importorskip(package, reason="needs napari with Qt", exc_type=ImportError)
    from napari.components import ViewerModel

    return ViewerModel()


def test_the_widget_segments_a_layer_of_the_viewer(viewer):
    widget = napari_client.make_widget(viewer)
    widget.segment.changed.emit(True)
    assert widget.message.value.startswith("choose a layer for the scan")
    scan = l_scan("LPS")
    layer = viewer.add_image(scan.voxels, name="scan", scale=(5.0, 1.5, 1.5), translate=(1.0, 2.0, 3.0))
    viewer.add_labels(3 * is_bright(scan).astype(int), name="organs", scale=(5.0, 1.5, 1.5))
    assert (widget.support.value.name, widget.mask.value.name) == ("scan", "organs")
    widget.server.value = CLOSED
    widget.set_support.changed.emit(True)
    assert "no answer" in widget.message.value
    with serving(token="abc") as url:
        widget.server.value, widget.label_choice.value = f"{url}#token=abc", "3:liver"
        widget.set_support.changed.emit(True)
        assert widget.message.value == "scan (5 x 1.5 x 1.5 mm) shows liver"
        widget.segment.changed.emit(True)
    assert widget.message.value.endswith("ml; check the mask")
    result = viewer.layers["scan mask"]
    assert np.array_equal(result.data, 3 * is_bright(scan))
    assert np.array_equal(result.extent.world, layer.extent.world)
