"""Serve segmentation over HTTP, with a page for the browser.

Usage: `python -m script.server reload_model_path=<snapshot or run> [key=value ...]`. `serve.sh` prepares the
environment and executes this; its --help documents the behaviour.
"""

import secrets
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field, create_model

from data.prediction_settings import NOTICE, SEGMENTER_FIELDS, SEGMENTER_KEYS, Paths
from script.workflows.scan_segmenter import Segmenter
from util.config.key_value_words import parse_words
from util.config.settings import Count, Settings, Text, key
from util.engine.word_command import describe_usage, run_word_command
from util.errors import UserError
from util.parallel.wait_policy import AdaptiveWaitPolicy

REQUIREMENTS = "script/requirements/server.txt"
_MAX_CONNECTIONS = 16
_SHUTDOWN_S = 5
_TEXTS = ("reload_model_path", "host", "token", "data_dir")


class _ServerKeys(Settings):
    reload_model_path: Paths = key(
        ...,
        "trained networks to choose from, snapshots or run folders; the first is loaded at once",
        examples=["runs/CHAOST2/fold_0/training/1"],
    )
    host: Text = key(
        "127.0.0.1", "address to listen on; others than this computer's own loopback need a token"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = key(8765, "port to listen on; 0 for a free one")
    token: Text | None = key(
        None, "what clients must send; None: none on a loopback address, otherwise generated and printed"
    )
    max_upload_mb: Count = key(512, "limit of one upload")


ServerConfig = create_model(
    "ServerConfig", __base__=_ServerKeys, __doc__="Keys of `script/serve.sh`.", **SEGMENTER_FIELDS
)


def serve(config: Settings) -> int:
    """Serve until a signal; returns the exit code.

    Raises:
        UserError: a package is missing, the address is not available, or the first network is not usable.
    """
    try:
        import uvicorn

        from script.server.access import is_loopback
        from script.server.app import make_app
    except ImportError as error:
        raise UserError(
            f"the server needs {error.name}; install it with `{sys.executable} -m pip install -r "
            f"{REQUIREMENTS}`"
        ) from error
    print(NOTICE, flush=True)
    listener = _listen(config.host, config.port)
    options = config.model_dump(include=set(SEGMENTER_KEYS))
    models = {path: partial(Segmenter.from_snapshot, path, **options) for path in config.reload_model_path}
    token = config.token or (None if is_loopback(config.host) else secrets.token_urlsafe(24))
    app = make_app(models, token=token, max_upload_bytes=config.max_upload_mb * 10**6)
    name = f"[{config.host}]" if ":" in config.host else config.host
    # The part after # stays in the browser.
    fragment = "" if token is None else f"#token={token}"
    print(f"open http://{name}:{listener.getsockname()[1]}/{fragment} (Ctrl-C ends the server)", flush=True)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
    )
    with listener, AdaptiveWaitPolicy():
        server.run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"host={host} port={port}: not available ({error.strerror}); choose another host or port"
        ) from error


def main(words: Sequence[str] | None = None, *, program: str = "python -m script.server") -> int:
    """Run the command and return its exit code, as `prediction.main`."""
    usage = describe_usage(
        ServerConfig,
        f"{program} reload_model_path=<snapshot or run> [key=value ...]",
        footer=f"{NOTICE.capitalize()}. `bash script/serve.sh --help` says more.",
    )
    return run_word_command(
        lambda words: serve(parse_words(ServerConfig, words, texts=_TEXTS)), words, usage=usage
    )


if __name__ == "__main__":
    sys.exit(main())
