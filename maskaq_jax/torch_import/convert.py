"""Weights under timm's names and PyTorch's layouts <-> our parameter tree.

Our modules carry timm's names, so the mapping is mechanical: `blocks.0.attn.qkv.weight`, (out, in)
is `blocks_0/attn/qkv/kernel`, (in, out). What other projects call them, and what is said beside
them, is read first; nothing that outputs depend on is dropped or taken for granted without a word.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from maskaq_jax.models import Model
from maskaq_jax.models.linear_segmenter import LinearSegmenter
from maskaq_jax.storage import notes
from maskaq_jax.storage.notes import Tell
from maskaq_jax.torch_import import (
    architecture,
    classifiers,
    companions,
    dense_names,
    flax_names,
    hub,
    mechanisms,
    names,
    positions,
    prefixes,
    readers,
)

# What a model without classifier has no use for; of MAE, what its training alone used.
_WITHOUT_CLASSIFIER = re.compile(r"^(head|head_dist|linear_head|decoder)\.|^decoder_")


def load_torch_weights(
    path: str | os.PathLike[str],
    model: Model,
    weights_key: str = "",
    tell: Tell = notes.log,
) -> dict[str, Any]:
    """Reads weights into the `params` of a model.

    Names may be timm's, those of the original DeiT, Swin, DINOv2 and MAE files, of OpenCLIP and
    torchvision, of Hugging Face transformers' ViT, DeiT, Swin, Dinov2, CLIP and SigLIP, or of
    google-research/vision_transformer and big_vision; a prefix before all of them is taken off.
    Position embeddings of another image size are resampled, and a classifier is left out where the
    model has none.

        >>> params = load_torch_weights("vit.safetensors", model)
        >>> logits, out = model.apply({"params": params}, images)

    Args:
      path: a `.safetensors` file; `.npz` or `.msgpack`, which JAX's projects write; `.pth`, `.pt`,
        `.bin` or `.ckpt`, which need PyTorch installed and are read with `weights_only=True`; an
        index of several files, or a folder with one of these; or
        `hf://organisation/name[@revision]`, which `hub` fetches. A `config.json` beside it is read.
      model: a model of `models.create_model`, quantized or not.
      weights_key: key, or prefix of names, that the weights are under where a file holds others.
      tell: is told what was taken for granted, as that which shapes don't show.

    Returns:
      The parameter tree, float32.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a weight file, or its names, shapes or values don't fit the model, or what is
        said beside it.
    """
    source, file = str(path), _find(path)
    said = companions.read(file, tell)
    weights = readers.read(file, weights_key, tell)
    state, facts, computes_positions = weights.state, dict[str, Any](), False
    if weights.is_flax:
        state, facts, computes_positions = flax_names.to_torch(state, tell)
    _check_facts(facts, model, source)
    companions.check_model(said, model, source, tell)
    if computes_positions:
        rows, columns = model.patch_grid
        state["pos_embed"] = flax_names.sine_positions(rows, columns, _channels(state))
        tell(f"{source} has no position embeddings: they are sines, as in big_vision")
    state = _with_head(state, model, file, source, tell)
    params = from_torch_state(state, model, source, tell, said.image_size)
    _tell_assumptions(model, facts.keys() | said.model.keys(), source, tell)
    return params


def read_companions(path: str | os.PathLike[str], tell: Tell = notes.log) -> companions.Companions:
    """What is said beside weights, of the model and of the pictures that it takes.

        >>> said = read_companions("vit.safetensors")
        >>> said.pictures
        {}

    Args:
      path: as of `load_torch_weights`.
      tell: is told of files that can't be read.

    Raises:
      FileNotFoundError, ValueError: as of `load_torch_weights`.
    """
    return companions.read(_find(path), tell)


def _find(path: str | os.PathLike[str]) -> Path:
    source = str(path)
    file = hub.fetch(source) if source.startswith(hub.SCHEME) else Path(path)
    return readers.find_file(file)


def from_torch_state(
    state: dict[str, np.ndarray],
    model: Model,
    source: str = "state dict",
    tell: Tell = notes.log,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Converts a state dict of arrays in PyTorch's layouts; see `load_torch_weights`.

        >>> state = to_torch_state(load_torch_weights("vit.safetensors", model))
        >>> params = from_torch_state(state, model)

    Args:
      state: name -> array.
      model: a model of `models.create_model`, quantized or not.
      source: of the arrays, for messages.
      tell: is told what was taken for granted.
      image_size: height and width of the images that position embeddings are of, where something
        says so: a detector's are of no square.

    Raises:
      ValueError: names, shapes or values don't fit the model.
    """
    state = prefixes.without_wrappers(state, source, tell)
    if kind := mechanisms.find_other(state):
        raise ValueError(
            f"{source} does not fit the model: its names are those of {_with_article(kind)}, which "
            "computes otherwise than the models here"
        )
    state = classifiers.bring_to_ours(state, model, source, tell)
    has_towers, given = names.has_towers(state), state
    state, prefix = prefixes.without_prefix(state, source)
    if has_towers:
        state = names.without_text(state)
    task = dense_names.task_of(state)
    if task != "classification":
        prefix = prefix.removesuffix("backbone.")  # which is where they have their backbone
        state = dense_names.to_ours(state, task, source, tell)
    if prefix:
        tell(f"{source}: the prefix {prefix!r} of its names is taken off")
    state = names.to_timm(state)
    if task != model.task:
        raise ValueError(
            f"{source} does not fit the model: its names are those of a {dense_names.NOUNS[task]}, "
            f"and the model is a {dense_names.NOUNS[model.task]}{_likely_model(state, model)}"
        )
    classifiers.check(state, model, source)
    if model.num_classes == 0:
        left_out = sorted(name for name in state if _WITHOUT_CLASSIFIER.match(name))
        state = {name: state[name] for name in state if name not in left_out}
        if left_out:
            tell(f"{source}: left out, as the model has no classifier: {notes.some(left_out)}")
    expected = traverse_util.flatten_dict(_parameter_shapes(model))
    if ("pos_embed",) in expected and "pos_embed" in state:
        length = expected[("pos_embed",)].shape[1]
        state = positions.fit_positions(state, model, length, image_size, source, tell)
    return _to_tree(state, model, expected, source, _outside(given, prefix))


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'AE' else 'a'} {kind}"


def _outside(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Names outside a prefix -> the key that takes what is inside."""
    key = prefix.split(".")[0]
    return {name: key for name in names if prefix and not name.startswith(f"{key}.")}


def _to_tree(
    state: Mapping[str, np.ndarray],
    model: Model,
    expected: Mapping[Any, Any],
    source: str,
    outside: Mapping[str, str],
) -> dict[str, Any]:
    """The parameter tree of a state dict under timm's names; ValueError if they don't fit."""
    paths = {_torch_name(path): path for path in expected}
    problems = []
    for kind, found in (
        ("missing", sorted(paths.keys() - state.keys())),
        ("unexpected", sorted(state.keys() - paths.keys())),
    ):
        if found:
            problems.append(f"{len(found)} {kind}: {notes.some(found)}")
        if keys := {outside[name] for name in found if name in outside}:
            problems[-1] += (
                f" (config.model.weights_key={min(keys)!r} takes what is below it alone)"
            )
    params = {}
    misshapen, not_finite, not_real = [], [], []
    for name in sorted(paths.keys() & state.keys()):
        path = paths[name]
        if not jnp.issubdtype(state[name].dtype, jnp.floating):
            not_real.append(f"{name} is {state[name].dtype}")
            continue
        with np.errstate(over="ignore"):  # what float32 can't hold is named below
            value = _from_torch_layout(path, np.asarray(state[name], np.float32))
        if value.shape != expected[path].shape:
            wanted = _to_torch_layout(path, np.empty(expected[path].shape)).shape
            misshapen.append(f"{name} is {state[name].shape}, expected {wanted}")
        elif not np.isfinite(value).all():
            not_finite.append(name)
        params[path] = value
    if not_real:
        problems.append(
            f"{len(not_real)} that are no real numbers, as codes without their scales are: "
            f"{notes.some(not_real)}"
        )
    if misshapen:
        problems.append(f"{len(misshapen)} of another shape: {notes.some(misshapen)}")
    if not_finite:
        problems.append(f"{len(not_finite)} with NaN or infinite values: {notes.some(not_finite)}")
    if problems:
        likely = _likely_model(state, model)
        raise ValueError(f"{source} does not fit the model: {'; '.join(problems)}{likely}")
    return traverse_util.unflatten_dict(params)


def _with_head(
    state: dict[str, np.ndarray], model: Model, file: Path, source: str, tell: Tell
) -> dict[str, np.ndarray]:
    """Adds the head of a linear segmenter, which its authors keep in a file of its own.

    Raises:
      ValueError: there is none beside the backbone's file, or several.
    """
    if not isinstance(model, LinearSegmenter) or dense_names.task_of(state) != "classification":
        return state
    heads = readers.find_heads(file)
    if len(heads) != 1:
        found = f"several, {notes.some([head.name for head in heads])}" if heads else "none"
        raise ValueError(
            f"{source} holds a backbone; of files of its head, as dinov2_vits14_ade20k_linear_head"
            f".pth, one should lie beside it, and there is {found}"
        )
    tell(f"{source}: the head is that of {heads[0].name} beside it")
    return state | readers.read(heads[0], "", tell).state


def _check_facts(facts: Mapping[str, Any], model: Model, source: str) -> None:
    """Raises ValueError where Flax's parameters show another model than this one."""
    problems = [
        f"config.model.arguments.{name} should be {value!r}, not {getattr(model, name)!r}"
        for name, value in facts.items()
        if hasattr(model, name)
        and value != getattr(model, "has_fc_norm" if name == "fc_norm" else name)
    ]
    if problems:
        raise ValueError(f"{source} does not fit the model: {'; '.join(problems)}")


def _tell_assumptions(model: Model, known: Any, source: str, tell: Tell) -> None:
    """Says what the weights' shapes are the same for, whatever it is."""
    taken = {
        name: getattr(model, name)
        for name in ("num_heads", "global_pool", "act_layer", "layer_norm_eps")
        if hasattr(model, name) and name not in known
    }
    if taken:
        listed = ", ".join(f"{name}={value!r}" for name, value in taken.items())
        tell(
            f"{source}: shapes of weights don't show these, which are taken from the config: "
            f"{listed} (config.model.name and config.model.arguments)"
        )


def _channels(state: Mapping[str, np.ndarray]) -> int:
    stem = state.get("patch_embed.proj.weight")
    return 0 if stem is None else len(stem)


def to_mmdetection_state(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Parameters of a backbone with a feature pyramid under mmdetection's names and in its layouts:
    those in a file of Mask R-CNN or Cascade Mask R-CNN that stand before its heads.

    Args:
      params: of a `swin_fpn`.

    Raises:
      ValueError: they are of another model.
    """
    if "neck" not in params:
        raise ValueError(
            "mmdetection's names are those of a swin_fpn's parameters: these have no neck"
        )
    return dense_names.to_mmdetection(to_torch_state(params))


def to_torch_state(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch_state`: our parameters under timm's names and layouts; heads of
    detectors and segmenters under ours, 1 x 1 convolutions as matrices.

        >>> state = to_torch_state(load_torch_weights("vit.safetensors", model))
        >>> state["patch_embed.proj.weight"].ndim
        4
    """
    return {
        _torch_name(path): np.ascontiguousarray(_to_torch_layout(path, np.asarray(value)))
        for path, value in traverse_util.flatten_dict(params).items()
    }


def _likely_model(state: Mapping[str, np.ndarray], model: Model) -> str:
    found = architecture.of_state(state)
    if found is None or found == architecture.of_model(model):
        return ""
    likely = f". The weights look like {architecture.describe(found)}"
    if len(found.depths) == 1 and not architecture.names_of(found):
        # A sentence that lists arguments would leave the default's twelve.
        likely += (
            "; num_heads does not show in shapes: set config.model.arguments.num_heads to what the "
            "weights were trained with"
        )
    return likely


def _parameter_shapes(model: Model) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, *model.input_shape), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


_LEAF_NAMES = {"kernel": "weight", "scale": "weight"}


def _torch_name(path: tuple[str, ...]) -> str:
    *modules, leaf = path
    modules = [re.sub(r"_(\d+)$", r".\1", module) for module in modules]
    return ".".join([*modules, _LEAF_NAMES.get(leaf, leaf)])


def _from_torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    return np.transpose(value, (2, 3, 1, 0) if value.ndim == 4 else None)


def _to_torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    return np.transpose(value, (3, 2, 0, 1) if value.ndim == 4 else None)
