"""`serve.sh`: its calls, what it refuses, and the page in a browser."""

import json
import re
import stat
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from script.server import __main__ as command
from script.workflows.scan_segmenter import Segmenter
from tests.oriented_scans import BRIGHT, is_bright, l_scan
from tests.script.chromium import open_tab
from util.config.settings import describe_keys
from util.errors import UserError
from util.io.image_io import write_volume

pytest.importorskip("fastapi", reason=f"see {command.REQUIREMENTS}")
pytest.importorskip("multipart", reason=f"see {command.REQUIREMENTS}")
uvicorn = pytest.importorskip("uvicorn", reason=f"see {command.REQUIREMENTS}")
TestClient = pytest.importorskip("fastapi.testclient", reason="needs httpx").TestClient
from script.server.access import is_loopback  # noqa: E402
from script.server.app import make_app  # noqa: E402
from tests.script.serving import make_segmenter, serving  # noqa: E402

LIMIT = 200_000
HOME = "http://127.0.0.1:8765"


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory):
    """Paths of an annotated scan, its mask and an oblique query, as NIfTI."""
    folder = tmp_path_factory.mktemp("files")
    support, query = l_scan("LPS"), l_scan("RAS", is_oblique=True)
    write_volume(folder / "a.nii.gz", support.voxels, support.geometry)
    write_volume(folder / "a_seg.nii.gz", 4 * is_bright(support).astype(np.uint8), support.geometry)
    write_volume(folder / "b.nii.gz", query.voxels, query.geometry)
    return {path.name.removesuffix(".nii.gz"): path for path in folder.iterdir()}


def connect(*, token=None, models=None, **options):
    app = make_app(models or {"net": make_segmenter}, token=token, max_upload_bytes=LIMIT)
    return TestClient(app, base_url=HOME, **options)


def send_support(client, files, **data):
    uploads = {"image": files["a"].open("rb"), "label_map": files["a_seg"].open("rb")}
    return client.post("/support", files=uploads, data=data)


def send_query(client, files, name="b"):
    return client.post("/segment", files={"image": files[name].open("rb")})


def test_a_scan_gets_its_label_map_on_its_own_grid(files, tmp_path):
    client = connect()
    assert client.get("/status").json()["support"] is None
    answer = send_support(client, files, labels="4:spleen")
    assert answer.json()["labels"] == {"4": "spleen"}
    assert answer.json()["support"] == "a.nii.gz"
    answer = send_query(client, files)
    (tmp_path / "mask.nii.gz").write_bytes(answer.content)
    image, mask = nibabel.load(files["b"]), nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), 4 * (np.asarray(image.dataobj) == BRIGHT))
    for form in ("get_qform", "get_sform"):
        assert np.array_equal(getattr(image, form)(coded=True)[0], getattr(mask, form)(coded=True)[0])
    result = json.loads(answer.headers["X-Result"])
    volume_ml = int(is_bright(l_scan()).sum()) * 5.0 * 1.5 * 1.5 / 1000
    assert result["labels"] == {"4": "spleen"}
    assert result["volumes_ml"]["4"] == pytest.approx(volume_ml, rel=1e-4)


def test_loading_another_network_forgets_the_support_and_a_failure_changes_nothing(files):
    def fail():
        raise UserError("bad.pt: damaged; train it again")

    client = connect(models={"net": make_segmenter, "other": make_segmenter, "bad": fail})
    assert client.get("/status").json()["models"] == ["net", "other", "bad"]
    send_support(client, files)
    answer = client.post("/load", json={"model": "bad"})
    assert (answer.status_code, answer.json()) == (400, {"errors": ["bad.pt: damaged; train it again"]})
    assert send_query(client, files).status_code == 200
    assert client.post("/load", json={"model": "other"}).json()["model"] == "other"
    assert send_query(client, files).json() == {
        "errors": ["no support is set; send an image and its label map to /support first"]
    }


def test_no_name_of_a_client_is_a_path(files, tmp_path, monkeypatch):
    (tmp_path / "secret.raw").write_bytes(bytes(60))
    header = "NRRD0005\ntype: uint8\ndimension: 3\nsizes: 3 4 5\nspace: left-posterior-superior\n"
    header += f"encoding: raw\ndata file: {tmp_path / 'secret.raw'}\n\n"
    client = connect()
    send_support(client, files)
    answer = client.post("/segment", files={"image": ("x.nrrd", header.encode())})
    assert answer.status_code == 400
    assert "x.nrrd: cannot be read as an image (not a NIfTI-1 header" in answer.json()["errors"][0]
    content = files["b"].read_bytes()
    answer = client.post("/segment", files={"image": ("../../etc/x\n.nii", content)})
    assert answer.status_code == 200
    answer = client.post("/load", json={"model": str(files["a"])})
    assert answer.json()["errors"] == [f"model={files['a']}: must be one of net"]


@pytest.mark.parametrize(
    ("uploads", "line"),
    [
        (
            {"image": "a", "label_map": "a_seg"},
            "labels=7: must be a label of the supports' masks, which hold 4",
        ),
        ({"image": "b", "label_map": "a_seg"}, "a_seg.nii.gz: must lie on the grid of b.nii.gz"),
        ({"image": "a"}, "label_map: Field required; see docs/server.md"),
    ],
)
def test_errors_are_the_command_s_lines_without_paths_of_the_server(files, uploads, line):
    uploads = {name: files[stem].open("rb") for name, stem in uploads.items()}
    answer = connect().post("/support", files=uploads, data={"labels": "7"})
    assert answer.status_code == 400
    [actual] = answer.json()["errors"]
    assert actual.startswith(line)
    assert tempfile.gettempdir() not in actual


def test_temporary_files_are_removed(files, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client = connect()
    assert send_support(client, files).status_code == 200
    assert send_query(client, files).status_code == 200
    assert client.post("/segment", files={"image": ("x.nii", b"damaged")}).status_code == 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("declares_length", [True, False])
def test_large_uploads_are_refused(files, declares_length):
    content = b"0" * (LIMIT + 1)
    body = content if declares_length else iter([content[:LIMIT], content[LIMIT:]])
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = connect().post("/segment", content=body, headers=kind)
    assert answer.status_code == 413
    assert answer.json()["errors"] == ["the upload is larger than max_upload_mb=0.2; raise it, or crop"]


def test_one_call_computes_at_a_time(files, monkeypatch):
    client, started, may_end = connect(), threading.Event(), threading.Event()
    send_support(client, files)
    segment = Segmenter.segment

    def wait(*arguments):
        started.set()
        may_end.wait(60)
        return segment(*arguments)

    monkeypatch.setattr(Segmenter, "segment", wait)
    answers = []
    first = threading.Thread(target=lambda: answers.append(send_query(client, files)))
    first.start()
    assert started.wait(60)
    for answer in (send_query(client, files), send_support(client, files)):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert answer.json()["errors"] == ["the server is busy with another request; try again shortly"]
    assert client.get("/status").status_code == 200
    may_end.set()
    first.join()
    assert answers[0].status_code == 200
    assert send_query(client, files).status_code == 200


def test_defects_and_lack_of_memory_are_reported_as_json(files, monkeypatch):
    client = connect(raise_server_exceptions=False)
    send_support(client, files)
    for error, status, line in (
        (MemoryError, 413, "not enough memory for this scan; crop it"),
        (torch.OutOfMemoryError, 413, "not enough memory for this scan; crop it"),
        (ZeroDivisionError, 500, "internal error; see the server's log"),
    ):
        monkeypatch.setattr(
            Segmenter, "segment", lambda *_, kind=error: 1 / 0 if kind is ZeroDivisionError else _raise(kind)
        )
        answer = send_query(client, files)
        assert (answer.status_code, answer.json()) == (status, {"errors": [line]})


def _raise(kind):
    raise kind


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8765"}, 200),
        ({"Host": "[::1]:8765"}, 200),
        ({"Host": "127.0.0.1:8765", "Origin": "http://127.0.0.1:8765"}, 200),
        ({"Host": "evil.example:8765", "Origin": "http://evil.example:8765"}, 403),  # DNS rebinding
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "https://127.0.0.1:8765"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_origins_are_refused_without_a_token(headers, status):
    client = connect()
    assert {client.get(path, headers=headers).status_code for path in ("/", "/status")} == {status}
    posted = client.post("/load", json={"model": "net"}, headers=headers)
    assert posted.status_code == status
    assert "access-control-allow-origin" not in posted.headers


def test_a_token_is_required_for_everything_but_the_page():
    client = connect(token="sésame")
    assert client.get("/", headers={"Host": "hospital.example"}).status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sésame".encode()}):
        answer = client.get("/status", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert client.get("/none").status_code == 401
    right = {"Authorization": "Bearer secret", "Origin": "http://evil.example"}
    assert connect(token="secret").get("/status", headers=right).status_code == 200


def test_addresses_of_this_computer_are_known():
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.7", "localhost.evil.example", "")))


@pytest.fixture(name="runs")
def _runs(monkeypatch):
    """Replace the network by one that needs no file, and serving by a record of its application."""
    apps = []
    monkeypatch.setattr(Segmenter, "from_snapshot", lambda path, **options: make_segmenter())
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: apps.append((self.config.app, sockets[0].getsockname()))
    )
    return apps


@pytest.mark.parametrize(
    ("words", "has_token"),
    [([], False), (["token=abc"], True), (["host=::1"], False), (["host=0.0.0.0"], True)],
)
def test_a_token_is_made_and_printed_unless_only_this_computer_can_connect(runs, capsys, words, has_token):
    assert command.main(["reload_model_path=net.pt", "port=0", *words]) == 0
    out = capsys.readouterr().out
    assert "not a medical device" in out
    [url] = re.findall(r"http://\S+", out)
    [(app, address)] = runs
    assert f":{address[1]}/" in url
    client = TestClient(app, base_url=HOME)
    assert client.get("/status").status_code == (401 if has_token else 200)
    if has_token:
        token = url.partition("#token=")[2]
        assert token == "abc" if words == ["token=abc"] else len(token) >= 32
        answer = client.get("/status", headers={"Authorization": f"Bearer {token}"})
        assert answer.json()["models"] == ["net.pt"]


def test_threads_do_not_spin_on_busy_cores_while_the_server_works(runs, monkeypatch):
    @contextmanager
    def policy():
        runs.append("on")
        yield
        runs.append("off")

    monkeypatch.setattr(command, "AdaptiveWaitPolicy", policy)
    assert command.main(["reload_model_path=net.pt", "port=0"]) == 0
    assert [runs[0], len(runs), runs[-1]] == ["on", 3, "off"]


def test_mistakes_in_the_call_cost_a_line_each(runs, capsys, monkeypatch):
    assert command.main(["port=99999", "gide=none"]) == 2
    lines = capsys.readouterr().err.splitlines()
    starts = [
        "gide: unknown configuration key; did you mean guide?",
        "reload_model_path: missing key",
        "port=99999",
    ]
    assert [any(line.startswith(f"error: {start}") for line in lines) for start in starts] == [True] * 3
    assert command.main(["reload_model_path=net.pt", "host=192.0.2.1"]) == 2
    assert "error: host=192.0.2.1 port=8765: not available" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert command.main(["reload_model_path=net.pt"]) == 2
    assert f"error: the server needs uvicorn; install it with `{sys.executable}" in capsys.readouterr().err
    assert runs == []


def test_the_script_explains_every_key_and_passes_its_words_on(clone):
    script = Path(command.__file__).parents[1] / "serve.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    result = clone.run("script/serve.sh", "--help", PATH="/usr/bin:/bin", VIRTUAL_ENV="/nowhere")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.findall(r"(?:^  |, )(\w+)=", result.stdout, flags=re.MULTILINE) == [
        name for name, *_ in describe_keys(command.ServerConfig)
    ]
    package = clone.root / "script/server/__main__.py"
    package.write_text("import sys\nprint(sys.argv[1:])\nsys.exit(2)")
    result = clone.run("script/serve.sh", "reload_model_path=my runs", "port=1")
    assert (result.returncode, result.stdout) == (2, "['reload_model_path=my runs', 'port=1']\n")


COUNT_RED = """(() => {
  const canvas = document.querySelector("#query canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 0; i < data.length; i += 4) n += data[i] > data[i + 1] + 20 ? 1 : 0;
  return n;
})()"""


def test_the_page_shows_support_and_result_in_a_browser(files, tmp_path):
    with serving(token="abc") as url, open_tab(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=f"{url}#token=abc")
        message = 'document.getElementById("message")?.textContent'
        tab.wait_for(f'{message} === "Choose an image and its mask."')
        assert "token" not in tab.evaluate("location.href")
        tab.choose_files("#support-image", files["a"])
        tab.choose_files("#support-mask", files["a_seg"])
        tab.wait_for(f'{message}.startsWith("The annotated scan is a.nii.gz")')
        tab.choose_files("#query-image", files["b"])
        tab.wait_for(f'{message}.startsWith("Segmented b.nii.gz")')
        tab.screenshot(tmp_path / "page.png")
        shown = tab.evaluate('document.querySelector("#query .legend").textContent')
        assert re.fullmatch(r"label 4: \d+\.\d ml", shown)
        assert tab.evaluate('document.getElementById("download").download') == "b_mask.nii.gz"
        scan = l_scan("RAS", is_oblique=True)
        counts = is_bright(scan).sum(axis=(1, 2))
        slice_idx = tab.evaluate('document.querySelector("#query .slider input").valueAsNumber') - 1
        assert counts[slice_idx] == counts.max() == tab.evaluate(COUNT_RED)
        for key in ("Home", "End"):
            tab.evaluate('document.querySelector("#query .slider input").focus()')
            for kind in ("keyDown", "keyUp"):
                code = {"Home": 36, "End": 35}[key]
                tab.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)
            expected = counts[{"Home": 0, "End": -1}[key]]
            assert tab.evaluate(COUNT_RED) == expected
        assert "left edge: R" in tab.evaluate('document.querySelector("#query output").value')
        background = "getComputedStyle(document.body).backgroundColor"
        light = tab.evaluate(background)
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        tab.screenshot(tmp_path / "dark.png")
        assert {light, tab.evaluate(background)} == {"rgb(255, 255, 255)", "rgb(20, 24, 30)"}
        addresses = tab.evaluate('performance.getEntriesByType("resource").map((entry) => entry.name)')
        assert len(addresses) >= 5
        assert all(address.startswith((url, "data:", "blob:")) for address in addresses)
        (tmp_path / "bad.nii").write_bytes(b"damaged")
        tab.choose_files("#query-image", tmp_path / "bad.nii")
        tab.wait_for(f'{message} === "bad.nii: not a NIfTI-1 file"')
        assert tab.messages == []
