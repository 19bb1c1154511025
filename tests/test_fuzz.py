"""Readers of what others wrote: no crash, no hang, no memory blow-up, whatever it is."""

import json
import re
import resource
import sys
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import save

from maskaq_jax import config, schema, torch_import
from maskaq_jax.models import create_model

MODEL = create_model("vit", 3, img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def weights():
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    params = jax.eval_shape(MODEL.init, jax.random.key(0), images)["params"]
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), params)
    return save(torch_import.to_torch_state(ones))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def _peak_memory(is_new=False):
    """Bytes, since the last `is_new` one where the system can tell."""
    if not sys.platform.startswith("linux"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if is_new:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def _read(directory, content):
    """Reads weights, which may be refused but no more; they need little memory either way."""
    path = directory / "weights.safetensors"
    path.write_bytes(content)
    before = _peak_memory(is_new=True)
    try:
        params = torch_import.load_torch_weights(path, MODEL)
    except (ValueError, OSError) as error:
        assert str(error)
    else:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert _peak_memory() - before < 100 * MEGABYTE


def test_whole_weights_are_read(directory, weights):
    (directory / "weights.safetensors").write_bytes(weights)
    torch_import.load_torch_weights(directory / "weights.safetensors", MODEL)


@hypothesis.settings(max_examples=200)
@hypothesis.given(data=st.data())
def test_weights_with_changed_bytes_are_read_or_refused(directory, weights, data):
    content = bytearray(weights)
    # Most of the bytes that matter are the header's.
    places = st.integers(0, 2000) | st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    _read(directory, bytes(content[:end]))


@hypothesis.given(content=st.binary(max_size=300))
def test_bytes_that_are_no_weights_are_refused(directory, content):
    _read(directory, content)


SIZES = st.integers(-1, 2**62)
TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL", "X9"]),
        "shape": st.lists(SIZES, max_size=5),
        "data_offsets": st.lists(SIZES, max_size=3),
    }
)


@hypothesis.given(
    header=st.dictionaries(st.text(max_size=9), TENSORS, max_size=4),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_headers_that_promise_too_much_are_refused(directory, header, length):
    text = json.dumps(header).encode()
    size = len(text) if length is None else length
    _read(directory, size.to_bytes(8, "little") + text + bytes(64))


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["vit", "maskaq", "fashion_mnist", "embedded:vit_fashion", "hf://a/b"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)
FIELDS = [
    *("seed", "method", "model", "pixels", "quantization", "samples", "synthesis", "finetuning"),
    *("evaluation", "checkpoint_seconds", "name", "num_classes", "arguments", "weights", "mean"),
    *("num_samples", "refresh_every", "view", "optimizer", "dataset", "split", "std", "grey"),
]
CONFIGS = st.dictionaries(
    st.sampled_from(FIELDS) | st.text(max_size=5),
    VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
    max_size=5,
)


@hypothesis.settings(max_examples=200)
@hypothesis.given(values=CONFIGS)
def test_configs_are_understood_or_refused(values):
    try:
        settings = config.from_dict(values)
        config.check_values(settings)
    except schema.ConfigError as error:
        assert str(error).startswith(("config", "unknown"))


@hypothesis.given(argument=st.text() | st.from_regex(r"([wa]=.{0,3},?){0,3}"))
def test_config_arguments_are_understood_or_refused(argument):
    try:
        parsed = schema.parse_arguments(argument, w=3, a=3, method="maskaq")
    except schema.ConfigError as error:
        assert str(error)
    else:
        assert isinstance(parsed.w, int)
