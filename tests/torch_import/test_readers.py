"""Files of weights as people have them."""

import json
import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from tests.torch_import.conftest import MODEL, TINY, assert_same

HEADLESS = create_model("vit", 0, **TINY)


@pytest.fixture
def state(params):
    return torch_import.to_torch_state(params)


@pytest.fixture
def load(tmp_path):
    """Saves arrays as safetensors and imports them; also what was told."""

    def load(arrays, model=MODEL, weights_key=""):
        path, told = tmp_path / "weights.safetensors", []
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        return torch_import.load_torch_weights(path, model, weights_key, told.append), told

    return load


def _prefixed(prefix, state):
    return {prefix + name: array for name, array in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "encoder.model."),
        *("net.0.", "base_encoder.", "student.backbone."),
    ],
)
def test_a_prefix_of_all_names_is_taken_off_and_said(params, state, load, prefix):
    found, told = load(_prefixed(prefix, state))
    assert_same(found, params)
    assert any(f"the prefix {prefix!r} of its names is taken off" in line for line in told)


@pytest.mark.parametrize("prefix", ["backbone.", "model.backbone."])
def test_a_classifier_may_stand_beside_a_backbone(params, state, load, prefix):
    outer = prefix.removesuffix("backbone.")
    renamed = {
        (outer if name.startswith("head.") else prefix) + name: array
        for name, array in state.items()
    }
    assert_same(load(renamed)[0], params)


def test_names_that_a_prefix_does_not_explain_are_refused(state, load):
    with pytest.raises(ValueError, match=r"1 unexpected: criterion\.weight"):
        load(_prefixed("model.", state) | {"criterion.weight": np.zeros(3, np.float32)})


def test_several_models_in_one_are_named_and_a_key_takes_one(params, state, load):
    both = _prefixed("student.backbone.", state)
    both |= {name: array + 1 for name, array in _prefixed("teacher.backbone.", state).items()}
    both["step"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match=r"several models, below 'student.backbone', 'teacher"):
        load(both)
    found, _ = load(both, weights_key="teacher")
    assert_same(found, jax.tree.map(lambda leaf: leaf + 1, params))
    assert_same(load(both, weights_key="student.backbone")[0], params)
    with pytest.raises(ValueError, match=r"no names below .*'ema'; they start with step, student"):
        load(both, weights_key="ema")


def test_a_classifier_on_top_of_a_pooler_is_another_model(state, load):
    pooler = {"pooler.dense.weight": np.zeros((8, 8), np.float32)}
    with pytest.raises(ValueError, match=r"classifier reads a layer behind .*pooler\.dense"):
        load(state | pooler)
    with pytest.raises(ValueError, match=r"classifier reads a layer behind .*pre_logits\.fc"):
        load(state | {"pre_logits.fc.weight": np.zeros((8, 8), np.float32)})
    without_head = {name: state[name] for name in state if not name.startswith("head.")}
    _, told = load(without_head | pooler, HEADLESS)
    assert any("left out, as nothing before it depends on it: pooler" in line for line in told)


def test_what_a_model_without_classifier_leaves_out_is_said(state, load):
    of_mae = {"decoder_embed.weight": np.zeros(3, np.float32), "mask_token": np.zeros(3)}
    _, told = load(state | of_mae, HEADLESS)
    (line,) = [line for line in told if "left out, as the model has no classifier" in line]
    assert "decoder_embed.weight, head.bias, head.weight" in line


def test_projections_of_which_one_is_missing_are_not_dropped():
    prefix = "vit.encoder.layer.0.attention.attention"
    theirs = {"vit.embeddings.patch_embeddings.projection.bias": np.zeros(8)}
    theirs |= {f"{prefix}.{name}.bias": np.zeros(8) for name in ("query", "value")}
    model = create_model("vit", 0, qkv_bias=False, **TINY)
    with pytest.raises(ValueError, match=r"unexpected: blocks\.0\.attn\.q\.bias"):
        torch_import.from_torch_state(theirs, model)


def test_what_shapes_do_not_show_is_said(state, load):
    _, told = load(state)
    (line,) = told
    for part in ("num_heads=2", "global_pool='token'", "act_layer='gelu'", "layer_norm_eps=1e-06"):
        assert part in line


def _shard(state, folder, suffix="safetensors"):
    names, files = sorted(state), ("model-00001-of-00002", "model-00002-of-00002")
    parts = {f"{file}.{suffix}": names[number::2] for number, file in enumerate(files)}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file in parts for name in parts[file]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_in_several_files_are_read_by_their_index_or_folder(params, state, tmp_path):
    _shard(state, tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert_same(torch_import.load_torch_weights(path, MODEL), params)


def test_a_folder_of_a_snapshot_is_read(params, state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "README.md").touch()
    assert_same(torch_import.load_torch_weights(tmp_path, MODEL), params)
    (tmp_path / "model.safetensors").rename(tmp_path / "best.safetensors")
    assert_same(torch_import.load_torch_weights(tmp_path, MODEL), params)
    save_file(state, tmp_path / "last.safetensors")
    with pytest.raises(ValueError, match=r"several files of weights.*best\.safetensors, last"):
        torch_import.load_torch_weights(tmp_path, MODEL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a readable index of weight files"),
        ('{"weight_map": [1]}', "is not a readable index of weight files"),
        ('{"weight_map": {"a": "../gone.safetensors"}}', "which is no file beside it"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "no weight file .*gone.safetensors"),
    ],
)
def test_an_index_that_does_not_fit_is_told(tmp_path, text, message):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        torch_import.load_torch_weights(tmp_path, MODEL)


@pytest.mark.parametrize("ending", ["safetensors", "npz", "msgpack", "pth"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
    ],
)
def test_what_stands_in_the_place_of_weights_is_said(tmp_path, ending, content, message):
    (tmp_path / f"weights.{ending}").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        torch_import.load_torch_weights(tmp_path / f"weights.{ending}", MODEL)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("https://huggingface.co/timm/vit_tiny_patch16_224", "hf://timm/vit_tiny_patch16_224"),
        ("https://huggingface.co/a/b/resolve/v1/model.safetensors", "hf://a/b@v1"),
        ("https://huggingface.co/a/b/tree/main", "named hf://a/b$"),
        ("facebook/deit-tiny-patch16-224", "hf://facebook/deit-tiny-patch16-224"),
        ("hf-hub:timm/vit_tiny", "hf://timm/vit_tiny"),
        ("https://example.org/weights.pth", "download it first"),
        ("gs://vit_models/augreg/Ti_16.npz", "download it first"),
    ],
)
def test_addresses_of_other_kinds_are_answered_with_ours(address, advice):
    with pytest.raises(FileNotFoundError, match=advice):
        torch_import.load_torch_weights(address, MODEL)


def test_layer_scale_is_advised_by_its_argument(state):
    scaled = create_model("vit", 3, init_values=0.1, **TINY)
    shapes = jax.eval_shape(scaled.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    weights = torch_import.to_torch_state(jax.tree.map(lambda x: np.ones(x.shape), shapes))
    with pytest.raises(ValueError, match="does not fit the model") as refusal:
        torch_import.from_torch_state(weights, MODEL)
    assert "init_values=1.0" in str(refusal.value)
    assert "num_heads does not show in shapes" in str(refusal.value)
    assert "layer_scale" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("layers.0.blocks.0.attn.cpb_mlp.0.weight", "Swin V2"),
        ("swinv2.encoder.layers.0.blocks.0.attention.self.logit_scale", "Swin V2"),
        ("blocks.0.mlp.fc1_g.weight", "EVA"),
        ("blocks.0.attn.q_bias", "BEiT or EVA"),
        ("blocks.0.mlp.w12.weight", "SwiGLU"),
        ("encoder.layer.0.mlp.weights_in.weight", "SwiGLU"),
        ("module.rope_embed.periods", "DINOv3"),
        ("rope.freqs", "ViT with rotary"),
        ("blocks.0.attn.rel_pos.mlp.fc1.weight", "ViT with relative positions"),
        ("stages.0.blocks.0.attn.meta_mlp.fc1.weight", "Swin V2-CR"),
        ("preprocessor.patchifier.proj.weight", "AIMv2"),
        ("patch_embed.backbone.stem.conv.weight", "hybrid"),
        ("layer1.0.conv1.weight", "convolutional network"),
    ],
)
def test_other_mechanisms_are_refused_by_their_name(state, name, kind):
    with pytest.raises(ValueError, match=f"its names are those of an? .*{kind}"):
        torch_import.from_torch_state(state | {name: np.zeros(2)}, MODEL)


def test_what_is_missing_and_shapes_tell_other_mechanisms(state):
    rotary = state | {"blocks.0.gamma_1": np.zeros(8)}
    del rotary["pos_embed"]
    with pytest.raises(ValueError, match="those of a ViT with rotary"):
        torch_import.from_torch_state(rotary, MODEL)
    with pytest.raises(ValueError, match="those of a DINOv3"):
        torch_import.from_torch_state(rotary | {"reg_token": np.zeros((1, 4, 8))}, MODEL)
    gated = state | {"blocks.0.mlp.fc1.weight": np.zeros((64, 8), np.float32)}
    with pytest.raises(ValueError, match="those of a ViT with SwiGLU"):
        torch_import.from_torch_state(gated, MODEL)


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_of_parts_and_counters_come_off(params, state, load, wrapper, prefix):
    wrapped = {
        prefix + name.replace("blocks.0.", f"blocks.0.{wrapper}."): array
        for name, array in state.items()
    }
    counted = {"n_averaged": np.zeros(1), "total_ops": np.zeros(1)}
    found, told = load(wrapped | counted | {f"{prefix}norm.total_params": np.zeros(1)})
    assert_same(found, params)
    assert any(f"{wrapper}, around parts of the model, is taken off" in line for line in told)
    assert any("n_averaged" in line and "no output depends on it" in line for line in told)


def test_a_tower_for_text_is_left_out_below_a_prefix(params, state, load):
    names = {"cls_token": "class_embedding", "pos_embed": "positional_embedding"}
    tower = {}
    for name, array in state.items():
        for theirs, ours in (
            ("conv1.weight", "patch_embed.proj.weight"),
            ("transformer.resblocks.", "blocks."),
            ("attn.in_proj_", "attn.qkv."),
            ("attn.out_proj.", "attn.proj."),
            ("ln_1.", "norm1."),
            ("ln_2.", "norm2."),
            ("mlp.c_fc.", "mlp.fc1."),
            ("mlp.c_proj.", "mlp.fc2."),
        ):
            name = name.replace(ours, theirs)
        name = name.replace("norm.", "ln_post.")
        if name in names:
            array = array.reshape(-1, 8) if name == "pos_embed" else array.reshape(-1)
        tower[f"module.visual.{names.get(name, name)}"] = array
    for name in [name for name in tower if ".head." in name or ".proj.bias" in name]:
        del tower[name]
    text = {
        "module.transformer.resblocks.0.ln_1.weight": np.ones(8, np.float32),
        "module.positional_embedding": np.ones((7, 8), np.float32),
        "module.logit_scale": np.ones((), np.float32),
    }
    with pytest.raises(ValueError, match="does not fit the model") as refusal:
        load(tower | text, HEADLESS)
    assert "unexpected" not in str(refusal.value)
    assert "1 missing: patch_embed.proj.bias" in str(refusal.value)


def test_weights_of_two_models_in_a_checkpoint_are_taken_by_the_key_that_is_named(
    params, state, load
):
    with pytest.raises(ValueError, match=r"weights_key='model' takes what is below it alone"):
        load(_prefixed("model.", state) | {"loss.weight": np.zeros(3, np.float32)})
    found, _ = load(
        _prefixed("model.", state) | {"loss.weight": np.zeros(3, np.float32)}, weights_key="model"
    )
    assert_same(found, params)


def test_a_program_of_torchscript_is_refused_with_the_mend(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(ValueError, match=r"TorchScript archive.*torch\.jit\.load\(path\)\.state"):
        torch_import.load_torch_weights(path, MODEL)


def test_an_ending_may_be_in_capitals(params, state, tmp_path):
    save_file(state, tmp_path / "weights.SAFETENSORS")
    assert_same(torch_import.load_torch_weights(tmp_path, MODEL), params)


def _in_torchvisions_names(state):
    """timm's names of a Swin -> torchvision's."""
    renamed = {}
    for name, array in state.items():
        name = re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1])}.", name)
        name = re.sub(r"^layers\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1]) + 1}.", name)
        for theirs, ours in (
            ("features.0.0.", "patch_embed.proj."),
            ("features.0.2.", "patch_embed.norm."),
            ("mlp.0.", "mlp.fc1."),
            ("mlp.3.", "mlp.fc2."),
            ("head.", "head.fc."),
        ):
            name = name.replace(ours, theirs)
        renamed[name] = array
    return renamed


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_swin_of_torchvision_is_read(load, prefix):
    sizes = {"embed_dim": 4, "depths": (1, 2), "num_heads": (1, 2), "window_size": 2}
    swin = create_model("swin", 3, img_size=8, patch_size=2, **sizes)
    shapes = jax.eval_shape(swin.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    theirs = _in_torchvisions_names(torch_import.to_torch_state(params))
    theirs["features.1.0.attn.relative_position_index"] = np.zeros(16, np.int64)
    assert_same(load(_prefixed(prefix, theirs), swin)[0], params)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_])
def test_codes_without_their_scales_are_no_weights(state, load, dtype):
    for name in state:
        told = rf"1 that are no real numbers.*: {re.escape(name)} is {np.dtype(dtype)}"
        with pytest.raises(ValueError, match=told):
            load(state | {name: state[name].astype(dtype)})


def test_a_packed_file_of_ours_is_told(load):
    with pytest.raises(ValueError, match=r"integers that maskaq_jax\.export has packed"):
        load({"params/head/kernel.codes": np.zeros(4, np.uint8)})


@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_link_to_nothing_is_told(tmp_path, named):
    link = tmp_path / "model.safetensors"
    link.symlink_to("../blobs/gone")
    with pytest.raises(FileNotFoundError, match=r"is a link to \.\./blobs/gone, where there is"):
        torch_import.load_torch_weights(tmp_path if named == "folder" else link, MODEL)


def test_a_link_to_nothing_hides_no_file(params, state, tmp_path):
    (tmp_path / "model.safetensors").symlink_to("../blobs/gone")
    save_file(
        {name: np.ascontiguousarray(state[name]) for name in state}, tmp_path / "v.safetensors"
    )
    assert_same(torch_import.load_torch_weights(tmp_path, MODEL), params)


def test_what_float32_cannot_hold_is_named_without_a_warning(state, load):
    large = state | {"head.bias": np.full_like(state["head.bias"], 1e300, dtype=np.float64)}
    with pytest.raises(ValueError, match=r"1 with NaN or infinite values: head\.bias"):
        load(large)
