"""The server's calls: load a network, set the support, segment a scan.

There is one network and one support set per server, for all clients.
"""

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path, PurePath
from typing import Annotated, Any

import torch
from fastapi import Body, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from data.prediction_files import write_result
from data.prediction_results import Segmentation
from data.prediction_settings import NOTICE
from data.raw.input_scans import InputScan, read_scan
from script.server.access import AccessControl
from script.workflows.scan_segmenter import Segmenter
from util.errors import UserError

PAGE_DIR = Path(__file__).parent / "page"
PAGE_FILES = {"/": "index.html", "/viewer.css": "viewer.css", "/viewer.js": "viewer.js"}
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
RESULT_HEADER = "X-Result"
_RETRY_S = "5"
_MAX_NAME = 100


class SegmentationService:
    """The state of a server: its network and support set, used by one call at a time.

    Args:
        models: name -> what loads the network; the first is loaded at once.
    """

    def __init__(self, models: Mapping[str, Callable[[], Segmenter]]) -> None:
        self._models = dict(models)
        self._lock = threading.Lock()
        self._support_name: str | None = None
        self._model = next(iter(models))
        self._segmenter = self._models[self._model]()

    def describe(self) -> dict[str, Any]:
        """Return the networks that can be loaded, and the present state."""
        labels = self._segmenter.labels if self._support_name else {}
        return {
            "notice": NOTICE,
            "models": list(self._models),
            "model": self._model,
            "support": self._support_name,
            "labels": {str(label): name for label, name in labels.items()},
        }

    def load(self, model: str) -> None:
        """Load one of the server's networks, by its name; the support set is forgotten.

        Raises:
            UserError: there is no such network, or it is not usable; then the former one stays.
        """
        if model not in self._models:  # a name, not a path: clients open no file
            raise UserError(f"model={model}: must be one of {', '.join(self._models)}")
        with self._one_at_a_time():
            segmenter = self._models[model]()
            self._segmenter, self._model, self._support_name = segmenter, model, None

    def set_support(self, image: UploadFile, label_map: UploadFile, labels: str | None) -> None:
        """Set the annotated scan; raises `UserError` as `Segmenter.set_support`."""
        requested = [part.strip() for part in (labels or "").split(",") if part.strip()]
        with self._one_at_a_time(), _temporary_dir() as folder:
            scans = [
                self._receive(*upload, folder) for upload in ((image, "image"), (label_map, "label_map"))
            ]
            self._segmenter.set_support(*scans, labels=requested or None)
            self._support_name = scans[0].name

    def segment(self, image: UploadFile) -> tuple[bytes, Segmentation]:
        """Return the label map of a scan as compressed NIfTI, and the result.

        Raises `UserError` as `Segmenter.segment`.
        """
        if self._support_name is None:
            raise UserError("no support is set; send an image and its label map to /support first")
        with self._one_at_a_time(), _temporary_dir() as folder:
            scan = self._receive(image, "image", folder)
            result = self._segmenter.segment(scan)
            path = folder / "result.nii.gz"
            write_result(path, result.label_map, scan)
            return path.read_bytes(), result

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            line = "the server is busy with another request; try again shortly"
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, line, {"Retry-After": _RETRY_S})
        try:
            yield
        finally:
            self._lock.release()

    def _receive(self, upload: UploadFile, kind: str, folder: Path) -> InputScan:
        """Read a NIfTI file, the only format whose reader opens no further files."""
        path = folder / f"{kind}.nii"  # compressed files are recognised by their content
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file)
        name = PurePath((upload.filename or kind).replace("\\", "/")).name[:_MAX_NAME]
        name = "".join(letter if letter.isprintable() else "_" for letter in name)
        try:
            scan = read_scan(path, assume_orientation=self._segmenter.frame.preparation.assume_orientation)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from error
        return replace(scan, name=name)


@contextmanager
def _temporary_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hcpmnet_server_") as folder:
        yield Path(folder)


def make_app(
    models: Mapping[str, Callable[[], Segmenter]], *, token: str | None, max_upload_bytes: int
) -> FastAPI:
    """Make the server's application.

    Args:
        models: see `SegmentationService`.
        token, max_upload_bytes: see `AccessControl`.

    Raises:
        UserError: the first network is not usable.
    """
    service = SegmentationService(models)
    # FastAPI's own pages of documentation would load scripts from elsewhere.
    app = FastAPI(title="HCPMNet", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        AccessControl, public_paths=frozenset(PAGE_FILES), token=token, max_upload_bytes=max_upload_bytes
    )
    _add_calls(app, service)
    for path, name in PAGE_FILES.items():
        app.get(path, include_in_schema=False)(partial(_send_page, name))
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


def _add_calls(app: FastAPI, service: SegmentationService) -> None:
    # Plain functions run in threads, so that the server answers while one computes.
    @app.get("/status")
    def status() -> dict[str, Any]:
        return service.describe()

    @app.post("/load")
    def load(model: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
        service.load(model)
        return service.describe()

    @app.post("/support")
    def support(
        image: Annotated[UploadFile, File()],
        label_map: Annotated[UploadFile, File()],
        labels: Annotated[str | None, Form()] = None,
    ) -> dict[str, Any]:
        service.set_support(image, label_map, labels)
        return service.describe()

    @app.post("/segment")
    def segment(image: Annotated[UploadFile, File()]) -> Response:
        content, result = service.segment(image)
        summary = {"labels": result.labels, "volumes_ml": result.volumes_ml, "confidence": result.confidence}
        return Response(content, media_type="application/gzip", headers={RESULT_HEADER: json.dumps(summary)})


def _send_page(name: str) -> Response:
    path = PAGE_DIR / name
    headers = {"Content-Security-Policy": _PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
    return Response(path.read_bytes(), media_type=_MEDIA_TYPES[path.suffix], headers=headers)


def _refuse(status: int, lines: list[str], headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"errors": lines}, status, headers)


def _refuse_input(_: Request, error: UserError) -> JSONResponse:
    return _refuse(HTTPStatus.BAD_REQUEST, str(error).splitlines())


def _refuse_form(_: Request, error: RequestValidationError) -> JSONResponse:
    faults = [f"{fault['loc'][-1]}: {fault['msg']}; see docs/server.md" for fault in error.errors()]
    return _refuse(HTTPStatus.BAD_REQUEST, faults)


def _refuse_size(_: Request, error: Exception) -> JSONResponse:
    return _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, ["not enough memory for this scan; crop it"])


def _refuse_request(_: Request, error: HTTPException) -> JSONResponse:
    return _refuse(error.status_code, [str(error.detail)], error.headers)


def _report_defect(_: Request, error: Exception) -> JSONResponse:
    return _refuse(HTTPStatus.INTERNAL_SERVER_ERROR, ["internal error; see the server's log"])


_HANDLERS = {
    UserError: _refuse_input,
    RequestValidationError: _refuse_form,
    MemoryError: _refuse_size,
    torch.OutOfMemoryError: _refuse_size,
    HTTPException: _refuse_request,
    Exception: _report_defect,
}
