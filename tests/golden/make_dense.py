"""Writes the golden files of detectors, segmenters and features, by transformers.

    python -m tests.golden.make_dense

Needs the torch extra. Weights are random, and as small as shows every part.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.torch_import import oracles

HERE = Path(__file__).parent


def main():
    """Writes all of them."""
    _yolos()
    _upernet()
    _linear_segmenter()
    _pyramid()


def _yolos():
    model, arguments = oracles.yolos(oracles.YOLOS), oracles.YOLOS
    arrays = {}
    # Of the size that positions are of, and of one that patches don't cover.
    for suffix, size in (("", (20, 24)), ("2", (26, 19))):
        arrays[f"images{suffix}"] = pixels = oracles.images(size)
        outputs = oracles.run(model, pixels)
        arrays[f"logits{suffix}"] = outputs.logits.numpy()
        arrays[f"boxes{suffix}"] = outputs.pred_boxes.numpy()
        arrays[f"tokens{suffix}"] = outputs.last_hidden_state.numpy()
    _write("yolos", "yolos", arguments, _saved(model), arrays)


def _upernet():
    model, arguments = oracles.upernet(oracles.UPERNET), oracles.UPERNET
    pixels = oracles.images(arguments["img_size"])
    arrays = {"images": pixels, "logits": oracles.as_maps([oracles.run(model, pixels).logits])[0]}
    maps = oracles.run(model.backbone, pixels).feature_maps
    arrays |= {f"map_{i}": each for i, each in enumerate(oracles.as_maps(maps))}
    _write("upernet_swin", "upernet_swin", arguments, _saved(model), arrays)


def _linear_segmenter():
    model, arguments = oracles.linear_segmenter(oracles.LINEAR_SEG), oracles.LINEAR_SEG
    arrays = {}
    for suffix, size in (("", 20), ("2", 28)):
        arrays[f"images{suffix}"] = pixels = oracles.images(size)
        arrays[f"logits{suffix}"] = oracles.as_maps([oracles.run(model, pixels)])[0]
    backbone, head = model.state()
    _write("linear_seg", "vit_linear_seg", arguments, backbone | head, arrays)


def _pyramid():
    model, arguments = oracles.pyramid(oracles.FPN), oracles.FPN
    pixels = oracles.images(arguments["img_size"])
    maps, levels = oracles.run(model, pixels)
    arrays = {"images": pixels}
    arrays |= {f"map_{i}": each for i, each in enumerate(oracles.as_maps(maps))}
    arrays |= {f"level_{i}": each for i, each in enumerate(oracles.as_maps(levels))}
    _write("swin_fpn", "swin_fpn", arguments, model.state(), arrays)


def _saved(model):
    """The state dict under the names that transformers writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def _write(name, architecture, arguments, state, arrays):
    save_file(
        {key: np.ascontiguousarray(a) for key, a in state.items()}, HERE / f"{name}.safetensors"
    )
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
    text = json.dumps({"arch": architecture} | arguments, indent=1)
    (HERE / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
