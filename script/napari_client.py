"""Segment napari's layers with a running server (`script/serve.sh`).

This file needs no other of the repository, only napari with Qt, nibabel and the standard library;
docs/server.md says how to install them. In napari's console:

    import sys; sys.path.append("<folder of this file>")
    import napari_client; viewer.window.add_dock_widget(napari_client.make_widget(viewer))

Research use only, not a medical device.
"""

import gzip
import http.client
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import nibabel
import numpy as np

DEFAULT_URL = "http://127.0.0.1:8765"
_TIMEOUT_S = 600.0
_NIFTI_DTYPES = (np.uint8, np.int16, np.uint16, np.int32, np.float32)  # that every reader knows


class ServerError(Exception):
    """The server cannot be reached, or a call is refused; a line per reason."""


class Client:
    """Call the server.

    Args:
        url: of the server; a token may follow as `#token=...`, as the server prints it.
        timeout_s: for one answer.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout_s: float = _TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ServerError(f"{url}: must be the address that the server prints, such as {DEFAULT_URL}")
        self._address, self._timeout_s = (parts.hostname, parts.port or 80), timeout_s
        token = parts.fragment.removeprefix("token=")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def status(self) -> dict[str, Any]:
        """Return the server's networks, its labels and the name of its support."""
        return json.loads(self._call("GET", "/status")[0])

    def load(self, model: str) -> dict[str, Any]:
        """Load one of the server's networks; returns the status."""
        body = json.dumps({"model": model}).encode()
        return json.loads(self._call("POST", "/load", body, "application/json")[0])

    def set_support(self, image: bytes, label_map: bytes, *, name: str, labels: str = "") -> dict[str, Any]:
        """Set the annotated scan; returns the status.

        Args:
            image, label_map: NIfTI files.
            name: of the scan.
            labels: to segment, such as `1:liver,4:spleen`; empty for all.
        """
        files = {"image": (f"{name}.nii", image), "label_map": (f"{name}_mask.nii", label_map)}
        return json.loads(self._call("POST", "/support", *encode_form({"labels": labels}, files))[0])

    def segment(self, image: bytes, *, name: str) -> tuple[bytes, dict[str, Any]]:
        """Return the label map of a NIfTI file, and the server's description of it.

        That is a compressed NIfTI file, and `labels`, `volumes_ml` and `confidence`.
        """
        content, headers = self._call("POST", "/segment", *encode_form({}, {"image": (f"{name}.nii", image)}))
        return content, json.loads(headers["X-Result"])

    def _call(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[bytes, Any]:
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        connection = http.client.HTTPConnection(*self._address, timeout=self._timeout_s)
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"{':'.join(map(str, self._address))}: no answer ({error})") from error
        finally:
            connection.close()
        if response.status == http.client.OK:
            return content, response.headers
        try:
            lines = json.loads(content)["errors"]
        except (ValueError, KeyError, TypeError):
            lines = [f"the server answered {response.status} {response.reason}"]
        raise ServerError("\n".join(lines))


def encode_form(fields: Mapping[str, str], files: Mapping[str, tuple[str, bytes]]) -> tuple[bytes, str]:
    """Return a multipart form and its content type.

    Args:
        fields: name -> text.
        files: name -> file name and content.
    """
    boundary = secrets.token_hex(16)
    parts = [(f'name="{name}"', text.encode()) for name, text in fields.items()]
    for name, (file_name, content) in files.items():
        quoted = "".join("_" if letter in '"\\\r\n' else letter for letter in file_name)
        parts.append((f'name="{name}"; filename="{quoted}"', content))
    chunks = []
    for disposition, content in parts:
        head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
        chunks += [head.encode(), content, b"\r\n"]
    return b"".join([*chunks, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def to_nifti(voxels: np.ndarray, spacing_mm: Sequence[float], axes: str = "LPS") -> bytes:
    """Return a layer's voxels as a NIfTI file.

    Args:
        voxels: `(Z, H, W)`.
        spacing_mm: `(z, y, x)`, a layer's scale.
        axes: where columns, rows and slices run to in the patient; the same for all scans.
    """
    directions = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    rows = [directions.get(letter, (None, 0)) for letter in axes.upper()]
    if voxels.ndim != 3 or sorted(str(row) for row, _ in rows) != ["0", "1", "2"]:
        raise ServerError(f"layers must be 3D with axes such as LPS, got shape {voxels.shape} and {axes!r}")
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, ((row, sign), step) in enumerate(zip(rows, reversed(spacing_mm), strict=True)):
        affine[row, column] = sign * float(step)
    if voxels.dtype not in _NIFTI_DTYPES:
        voxels = voxels.astype(np.int32 if voxels.dtype.kind in "iub" else np.float32)
    return nibabel.Nifti1Image(voxels.T, affine).to_bytes()


def read_label_map(content: bytes) -> np.ndarray:
    """Return the label map `(Z, H, W)` of a compressed NIfTI file."""
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    return np.asarray(image.dataobj).T


def find_spacing_mm(layer: Any) -> tuple[float, ...]:
    """Return the spacing `(z, y, x)` of a layer.

    Readers of files set a layer's scale or its affine.
    """
    steps = np.asarray(layer.affine.affine_matrix)[-4:-1, -4:-1] @ np.diag(layer.scale[-3:])
    return tuple(np.linalg.norm(steps, axis=0).tolist())


def set_support_layers(client: Client, image: Any, mask: Any, *, labels: str = "", axes: str = "LPS") -> str:
    """Make two layers the annotated scan; returns a line to show."""
    files = [_read_layer(layer, axes) for layer in (image, mask)]
    names = client.set_support(*files, name=image.name, labels=labels)["labels"]
    spacing = " x ".join(f"{mm:g}" for mm in find_spacing_mm(image))
    return f"{image.name} ({spacing} mm) shows {', '.join(names.values())}"


def segment_layer(client: Client, image: Any, *, axes: str = "LPS") -> tuple[np.ndarray, dict[str, Any], str]:
    """Return a layer's label map, options of a layer for it, and a line to show."""
    content, result = client.segment(_read_layer(image, axes), name=image.name)
    options = {"name": f"{image.name} mask"}
    options |= {name: getattr(image, name) for name in ("scale", "translate", "rotate", "shear", "affine")}
    volumes = [f"{result['labels'][label]} {ml:.1f} ml" for label, ml in result["volumes_ml"].items()]
    return read_label_map(content), options, f"{image.name}: {', '.join(volumes)}; check the mask"


def call_server(url: str, action: Callable[[Client], str]) -> str:
    """Return the line of an action that calls the server, or those of its error."""
    try:
        return action(Client(url))
    except ServerError as error:
        return str(error)


def _read_layer(layer: Any, axes: str) -> bytes:
    if layer is None:
        raise ServerError("choose a layer for the scan and, if it is the annotated one, for its mask")
    return to_nifti(np.asarray(layer.data), find_spacing_mm(layer), axes)


def make_widget(viewer: Any) -> Any:
    """Return a dock widget that sets the annotated scan and segments layers."""
    from magicgui.widgets import ComboBox, Container, Label, LineEdit, PushButton

    def layers(kind: str) -> list[Any]:
        return [layer for layer in viewer.layers if type(layer).__name__ == kind]

    url = LineEdit(name="server", label="server", value=DEFAULT_URL)
    axes = LineEdit(name="axes", label="axes", value="LPS")
    labels = LineEdit(name="label_choice", label="labels", value="")
    support = ComboBox(name="support", label="annotated scan", choices=lambda _: layers("Image"))
    mask = ComboBox(name="mask", label="its mask", choices=lambda _: layers("Labels"))
    query = ComboBox(name="query", label="scan to segment", choices=lambda _: layers("Image"))
    set_support = PushButton(name="set_support", text="Set annotated scan")
    segment = PushButton(name="segment", text="Segment")
    message = Label(name="message", value="Research use only: not a medical device")

    def attempt(action: Callable[[Client], str]) -> None:
        message.value = call_server(url.value, action)

    def show_result(client: Client) -> str:
        label_map, options, line = segment_layer(client, query.value, axes=axes.value)
        viewer.add_labels(label_map, **options)
        return line

    set_support.changed.connect(
        lambda: attempt(
            lambda client: set_support_layers(
                client, support.value, mask.value, labels=labels.value, axes=axes.value
            )
        )
    )
    segment.changed.connect(lambda: attempt(show_result))
    widget = Container(widgets=[url, axes, labels, support, mask, set_support, query, segment, message])
    for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
        event.connect(widget.reset_choices)
    return widget
