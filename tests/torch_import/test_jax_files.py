"""Archives and files of JAX's own projects."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import serialization, traverse_util

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from tests.torch_import.conftest import MODEL, TINY, assert_same


def _in_big_visions_names(params, heads, layer_norms=("LayerNorm_0", "LayerNorm_1")):
    """Our parameters of a ViT as big_vision names and shapes them."""
    flat = {"/".join(path): np.asarray(leaf) for path, leaf in _flat(params)}
    theirs = {}
    for name, array in flat.items():
        if match := _block(name):
            number, rest = match
            block = f"Transformer/encoderblock_{number}/"
            module, leaf = rest.rsplit("/", 1)
            if module == "attn/qkv":
                for part, piece in zip("qkv", np.split(array, 3, axis=-1), strict=True):
                    own = {"q": "query", "k": "key", "v": "value"}[part]
                    shape = (*piece.shape[:-1], heads, piece.shape[-1] // heads)
                    theirs[f"{block}MultiHeadDotProductAttention_0/{own}/{leaf}"] = piece.reshape(
                        shape
                    )
            elif module == "attn/proj":
                shape = (heads, -1, array.shape[-1]) if leaf == "kernel" else (-1,)
                theirs[f"{block}MultiHeadDotProductAttention_0/out/{leaf}"] = array.reshape(shape)
            else:
                own = {
                    "norm1": layer_norms[0],
                    "norm2": layer_norms[1],
                    "mlp/fc1": "MlpBlock_0/Dense_0",
                    "mlp/fc2": "MlpBlock_0/Dense_1",
                }[module]
                theirs[f"{block}{own}/{leaf}"] = array
        else:
            own = name.replace("patch_embed/proj", "embedding").replace("cls_token", "cls")
            own = own.replace("pos_embed", "pos_embedding")
            theirs[own if not own.startswith("norm/") else f"Transformer/encoder_{own}"] = array
    return theirs


def _flat(params):
    return traverse_util.flatten_dict(params).items()


def _block(name):
    if not name.startswith("blocks_"):
        return None
    number, rest = name.removeprefix("blocks_").split("/", 1)
    return number, rest


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/"])
def test_archives_of_jaxs_own_projects_are_read(params, tmp_path, prefix):
    theirs = _in_big_visions_names(params, 2)
    np.savez(tmp_path / "vit.npz", **{prefix + name: theirs[name] for name in theirs})
    assert_same(torch_import.load_torch_weights(tmp_path / "vit.npz", MODEL), params)


def test_archives_of_vision_transformer_are_read(params, tmp_path):
    theirs = _in_big_visions_names(params, 2, ("LayerNorm_0", "LayerNorm_2"))
    theirs = {
        name.replace("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1")
        .replace("MlpBlock_0", "MlpBlock_3")
        .replace("pos_embedding", "Transformer/posembed_input/pos_embedding"): array
        for name, array in theirs.items()
    }
    np.savez(tmp_path / "vit.npz", **theirs)
    assert_same(torch_import.load_torch_weights(tmp_path / "vit.npz", MODEL), params)


def test_blocks_that_were_scanned_over_and_halved_numbers_are_read(params, tmp_path):
    theirs = {}
    for name, array in _in_big_visions_names(params, 2).items():
        halved = array.astype(ml_dtypes.bfloat16)
        if "encoderblock_0" in name:
            name, halved = name.replace("encoderblock_0", "encoderblock"), halved[None]
        theirs[name] = halved
    np.savez(tmp_path / "vit.npz", **theirs)
    found = torch_import.load_torch_weights(tmp_path / "vit.npz", MODEL)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-7), found, params)


def test_heads_and_pooling_that_an_archive_shows_are_compared(params, tmp_path):
    np.savez(tmp_path / "vit.npz", **_in_big_visions_names(params, 4))
    with pytest.raises(ValueError, match=r"arguments\.num_heads should be 4, not 2"):
        torch_import.load_torch_weights(tmp_path / "vit.npz", MODEL)
    averaged = create_model("vit", 3, global_pool="avg", fc_norm=False, **TINY)
    np.savez(tmp_path / "vit.npz", **_in_big_visions_names(params, 2))
    with pytest.raises(ValueError, match=r"arguments\.global_pool should be 'token', not 'avg'"):
        torch_import.load_torch_weights(tmp_path / "vit.npz", averaged)


def test_positions_that_big_vision_computes_are_computed(tmp_path):
    model = create_model("vit", 3, global_pool="avg", fc_norm=False, class_token=False, **TINY)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    theirs = _in_big_visions_names(params, 2)
    del theirs["pos_embedding"]
    np.savez(tmp_path / "vit.npz", **theirs)
    told = []
    found = torch_import.load_torch_weights(tmp_path / "vit.npz", model, tell=told.append)
    # Of the patch in row 1, column 0, of the frequencies 1 and 1/10000.
    expected = [0, 0, 1, 1, np.sin(1), np.sin(1e-4), np.cos(1), np.cos(1e-4)]
    np.testing.assert_allclose(found["pos_embed"][0, 2], expected, atol=1e-6)
    assert any("no position embeddings" in line for line in told)


def test_a_tower_for_images_is_taken_from_a_pair(params, tmp_path):
    theirs = {f"params/img/{name}": a for name, a in _in_big_visions_names(params, 2).items()}
    theirs |= {"params/txt/Embed_0/embedding": np.zeros((3, 2)), "params/t": np.zeros(1)}
    np.savez(tmp_path / "clip.npz", **theirs)
    told = []
    found = torch_import.load_torch_weights(tmp_path / "clip.npz", MODEL, tell=told.append)
    assert_same(found, params)
    assert "the tower for images is taken; left out are t, txt" in told


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"PK\x03\x04" + bytes(99), b"PK\x05\x06" + bytes(18)],
    ids=["empty", "text", "broken", "without entries"],
)
def test_archives_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / "vit.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"vit\.npz (is not a readable|does not fit)"):
        torch_import.load_torch_weights(tmp_path / "vit.npz", MODEL)


def test_nothing_in_an_archive_is_unpickled(tmp_path):
    np.savez(tmp_path / "vit.npz", cls=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"vit\.npz is not a readable .npz file.*pickle"):
        torch_import.load_torch_weights(tmp_path / "vit.npz", MODEL)


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "vit.npz", cls=np.zeros(10**8, np.uint8))
    with pytest.raises(ValueError, match="it unpacks to 100000128 bytes"):
        torch_import.load_torch_weights(tmp_path / "vit.npz", MODEL)


def _in_transformers_names(params):
    """Our parameters as transformers' Flax ViT names and nests them."""
    names = {
        ("cls_token",): "vit/embeddings/cls_token",
        ("pos_embed",): "vit/embeddings/position_embeddings",
        ("patch_embed", "proj"): "vit/embeddings/patch_embeddings/projection",
        ("norm",): "vit/layernorm",
        ("head",): "classifier",
        ("blocks_0", "norm1"): "vit/encoder/layer/0/layernorm_before",
        ("blocks_0", "norm2"): "vit/encoder/layer/0/layernorm_after",
        ("blocks_0", "attn", "proj"): "vit/encoder/layer/0/attention/output/dense",
        ("blocks_0", "mlp", "fc1"): "vit/encoder/layer/0/intermediate/dense",
        ("blocks_0", "mlp", "fc2"): "vit/encoder/layer/0/output/dense",
    }
    theirs = {}
    for path, leaf in _flat(params):
        array = np.asarray(leaf)
        if path in names:
            theirs[names[path]] = array
        elif path[:-1] == ("blocks_0", "attn", "qkv"):
            for name, part in zip(("query", "key", "value"), np.split(array, 3, -1), strict=True):
                theirs[f"vit/encoder/layer/0/attention/attention/{name}/{path[-1]}"] = part
        else:
            theirs[f"{names[path[:-1]]}/{path[-1]}"] = array
    return traverse_util.unflatten_dict(theirs, sep="/")


@pytest.mark.parametrize("around", [lambda tree: tree, lambda tree: {"params": tree, "step": 3}])
def test_files_of_flax_are_read(params, tmp_path, around):
    tree = around(_in_transformers_names(params))
    (tmp_path / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    for path in (tmp_path, tmp_path / "flax_model.msgpack"):
        assert_same(torch_import.load_torch_weights(path, MODEL), params)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xc1", serialization.msgpack_serialize({"a": "b"}), b"\x03", b"\x81\xa1a\xc7\x01\x01x"],
    ids=["empty", "no format", "text", "number", "a broken array"],
)
def test_files_of_flax_that_hold_no_arrays_are_named(tmp_path, content):
    (tmp_path / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(ValueError, match=r"flax_model\.msgpack(:| is not a readable)"):
        torch_import.load_torch_weights(tmp_path / "flax_model.msgpack", MODEL)
