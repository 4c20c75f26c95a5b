"""A server in a thread of the test, which finds what is bright."""

import threading
from contextlib import contextmanager

import torch
import uvicorn

from data.model_frame import ModelFrame
from data.transforms import Preparation
from script.server import __main__ as command
from script.server.app import make_app
from script.workflows.scan_segmenter import Segmenter
from script.workflows.support_ensemble import Options
from tests.bright_segmenter import BrightSegmenter


def make_segmenter():
    frame = ModelFrame(Preparation(orientation="LPS"), None, "test")
    return Segmenter(BrightSegmenter(), frame, device=torch.device("cpu"), options=Options(guided=False))


@contextmanager
def serving(**options):
    """Serve in a thread on a free port; yields the address."""
    app = make_app({"net": make_segmenter}, max_upload_bytes=10**7, **options)
    listener = command._listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
