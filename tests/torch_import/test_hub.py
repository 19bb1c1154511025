"""Fetching weights, from a hub of our own on this machine."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from maskaq_jax.torch_import import hub

pytest.importorskip("huggingface_hub", reason="needs the hub extra")

COMMIT = "c" * 40
FILES = {
    "/org/vit/resolve/main/model.safetensors": b"weights",
    "/org/vit/resolve/v1/model.safetensors": b"older weights",
    "/org/old/resolve/main/pytorch_model.bin": b"pickled weights",
    "/org/flax/resolve/main/flax_model.msgpack": b"weights of Flax",
    "/org/parts/resolve/main/model.safetensors.index.json": (
        b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    ),
    "/org/parts/resolve/main/model-1.safetensors": b"first",
    "/org/parts/resolve/main/model-2.safetensors": b"second",
    "/org/parts/resolve/main/config.json": b"{}",
    "/org/half/resolve/main/model.safetensors.index.json": b'{"weight_map": {"a": "gone"}}',
}
REPOSITORIES = ("/org/vit/", "/org/old/", "/org/empty/", "/org/real/")
REPOSITORIES += ("/org/flax/", "/org/parts/", "/org/half/")
TINY = {"img_size": 4, "patch_size": 4, "embed_dim": 4, "depth": 1, "num_heads": 1}


class _Hub(http.server.BaseHTTPRequestHandler):
    requests: list[str] = []  # noqa: RUF012

    def do_HEAD(self):
        self._answer(with_content=False)

    def do_GET(self):
        self._answer(with_content=True)

    def _answer(self, with_content):
        self.requests.append(self.path)
        content = FILES.get(self.path)
        if content is None:
            known = self.path.startswith(REPOSITORIES)
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    _Hub.requests.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def run(server, tmp_path):
    """Runs code in a process of its own, since the client reads its environment when imported."""

    def run(code, **environment):
        environment = {
            "HF_ENDPOINT": server,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "JAX_PLATFORMS": "cpu",
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **environment,
        }
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        return json.loads(result.stdout.splitlines()[-1])

    return run


@pytest.fixture
def fetch(run):
    def fetch(address, **environment):
        code = f"""
import json
from maskaq_jax.torch_import import hub
try:
    print(json.dumps(hub.fetch({address!r}).read_text()))
except ValueError as error:
    print(json.dumps({{"error": str(error)}}))
"""
        return run(code, **environment)

    return fetch


def test_weights_are_fetched_once(fetch):
    assert fetch("hf://org/vit") == "weights"
    assert fetch("hf://org/vit") == "weights"
    downloads = [path for path in _Hub.requests if path.endswith("model.safetensors")]
    assert len(downloads) <= 3  # asked about twice, sent once


def test_a_revision_is_fetched(fetch):
    assert fetch("hf://org/vit@v1") == "older weights"


def test_pickled_weights_are_fetched_where_there_are_no_others(fetch):
    assert fetch("hf://org/old") == "pickled weights"


def test_weights_of_flax_are_fetched_where_there_are_no_others(fetch):
    assert fetch("hf://org/flax") == "weights of Flax"


def test_what_an_index_lists_and_what_lies_beside_it_is_fetched(run):
    names = run("""
import json
from maskaq_jax.torch_import import hub
index = hub.fetch("hf://org/parts")
print(json.dumps({path.name: path.read_text() for path in index.parent.iterdir()}))
""")
    assert names.pop("model.safetensors.index.json").startswith('{"weight_map"')
    expected = {"model-1.safetensors": "first", "model-2.safetensors": "second"}
    assert names == expected | {"config.json": "{}"}


@pytest.mark.parametrize("address", ["hf://org/vit", "hf://org/old"])
def test_a_fetched_file_is_found_offline(fetch, address):
    fetched = fetch(address)
    asked = len(_Hub.requests)
    assert fetch(address, HF_HUB_OFFLINE="1") == fetched
    assert "weights" in fetched
    assert len(_Hub.requests) == asked


def test_fetched_weights_are_imported(run, monkeypatch):
    model = create_model("vit", 2, **TINY)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    state = torch_import.to_torch_state(params)
    monkeypatch.setitem(FILES, "/org/real/resolve/v1/model.safetensors", save(state))
    imported = run(f"""
import json
from maskaq_jax import torch_import
from maskaq_jax.models import create_model
params = torch_import.load_torch_weights("hf://org/real@v1", create_model("vit", 2, **{TINY}))
state = torch_import.to_torch_state(params)
print(json.dumps({{name: array.tolist() for name, array in state.items()}}))
""")
    assert imported.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(np.asarray(imported[name], np.float32), array)


@pytest.mark.parametrize(
    ("address", "environment", "message"),
    [
        ("hf://org/empty", {}, "holds neither model.safetensors nor pytorch_model.bin"),
        ("hf://org/gone", {}, "hf://org/gone can't be fetched"),
        ("hf://org/half", {}, "hf://org/half can't be fetched"),
        ("hf://org/vit", {"HF_HUB_OFFLINE": "1"}, "is not in the cache and the hub can't be"),
        ("hf://vit", {}, "should read hf://organisation/name"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_one_line(fetch, address, environment, message):
    error = fetch(address, **environment)["error"]
    assert message in error
    assert "\n" not in error


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface_hub"):
        hub.fetch("hf://org/vit")
