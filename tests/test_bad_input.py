"""Every mistake ends before any work: exit status 2, one clear line, nothing written."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from maskaq_jax.storage import paths
from tests.mistakes import CASES, ROOT

EMBEDDED = paths.weights_path("embedded:vit_fashion")

# Runs the command line once for each case, each in a process of its own that is forked after the
# imports: they take longer than the answer.
RUNNER = """
import json, os, sys
import jax
from maskaq_jax import config, main, run
from maskaq_jax.runs import inputs

for case in json.load(sys.stdin):
    pid = os.fork()
    if pid == 0:
        os.chdir(case["directory"])
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(case["output"] + name, os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["main", *case["arguments"]]
        try:
            main.start()
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code or 0)
        except BaseException:
            os._exit(99)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def _write_files(directory):
    """All that the cases name."""
    _write_configs(directory)
    _write_damaged_weights(directory)
    _write_weights_that_do_not_fit(directory)
    _write_repositories(directory)
    _write_images(directory)
    _write_runs(directory)
    (directory / "dangling").symlink_to(directory / "gone")


def _write_configs(directory):
    (directory / "syntax.py").write_text("def get_config(:\n")
    (directory / "raises.py").write_text("def get_config():\n    raise RuntimeError('no way')\n")
    (directory / "empty.py").write_text("")
    for name in ("dict", "none"):
        returned = {"dict": {"seed": 0}, "none": None}[name]
        (directory / f"{name}.py").write_text(
            f"def get_config(argument=None):\n    return {returned!r}\n"
        )
    for name, argument, value in (
        *[("grey", "in_chans", 1), ("two", "in_chans", 2), ("half", "depth", 2.5)],
        *[("heads", "num_heads", [2, 2]), ("dtype", "dtype", "f33")],
        *[("width", "mlp_ratio", None), ("thin", "mlp_ratio", 0)],
        *[("pool", "global_pool", "cls"), ("tokenless", "class_token", False)],
    ):
        (directory / f"{name}.py").write_text(
            "from configs import smoke\n\n\ndef get_config():\n    config = smoke.get_config()\n"
            f"    config.model.arguments = {{{argument!r}: {value!r}}}\n    return config\n"
        )
    (directory / "nan.py").write_text(
        (directory / "thin.py").read_text().replace("'mlp_ratio': 0", "'mlp_ratio': float('nan')")
    )


def _write_damaged_weights(directory):
    """Files that are no weights, or parts of them."""
    (directory / "weights.txt").write_text("1 2 3")
    (directory / "text.safetensors").write_text("these are no weights")
    whole = EMBEDDED.read_bytes()
    (directory / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    length = len(header).to_bytes(8, "little")
    (directory / "bomb.safetensors").write_bytes(length + header.encode())
    (directory / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    for name, content in (("weighed", '{"crc32": 1}'), ("blank", "")):
        (directory / name).mkdir()
        (directory / name / "weights.json").write_text(content)


def _write_weights_that_do_not_fit(directory):
    """Whole files, of another model or with values that no model has."""
    (directory / "deit.safetensors").write_bytes(EMBEDDED.read_bytes())
    (directory / "swin.safetensors").write_bytes(
        paths.weights_path("embedded:swin_fashion").read_bytes()
    )
    arrays = load_file(EMBEDDED)
    save_file(
        arrays | {"head.bias": np.full(10, np.nan, np.float32)}, directory / "nan.safetensors"
    )
    head = {"head.weight": np.zeros((7, 64), np.float32), "head.bias": np.zeros(7, np.float32)}
    save_file(arrays | head, directory / "classes.safetensors")
    for name, hurt in (
        ("scalar", {"head.weight": np.float32(0)}),
        ("hollow", {"patch_embed.proj.weight": np.zeros((64, 0, 4, 4), np.float32)}),
    ):
        arrays_hurt = arrays | {key: np.asarray(value) for key, value in hurt.items()}
        save_file(arrays_hurt, directory / f"{name}.safetensors")
    both = {f"{name}.{key}": arrays[key] for name in ("student", "teacher") for key in arrays}
    save_file(both, directory / "two.safetensors")
    extra = np.zeros((2, 2), np.float32)
    save_file(
        arrays | {"layers.0.blocks.0.attn.cpb_mlp.0.weight": extra}, directory / "swin2.safetensors"
    )
    save_file(arrays | {"pooler.dense.weight": extra}, directory / "pooled.safetensors")
    token = np.zeros((1, 1, 64), np.float32)
    save_file(arrays | {"dist_token": token}, directory / "one.safetensors")


def _write_repositories(directory):
    """Weights with what stands beside them."""
    squash = {"size": {"height": 28, "width": 28}}
    for name, file, said in (
        ("said", "config.json", {"hidden_act": "relu"}),
        ("rpn", "config.json", {"architecture": "vit_base_patch16_rpn_224"}),
        ("prepared", "preprocessor_config.json", {"image_mean": [0.5] * 3}),
        ("squashed", "preprocessor_config.json", squash),
    ):
        (directory / name).mkdir()
        (directory / name / "model.safetensors").write_bytes(EMBEDDED.read_bytes())
        (directory / name / file).write_text(json.dumps(said))


def _write_images(directory):
    """Folders of images, and a list of some."""
    (directory / "list").write_text("n01/0.png 0\nn01/1.png seven\n")
    (directory / "classes").write_text("n01\nn00\n")
    for number in range(10):
        (directory / "tens" / str(number)).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(directory / "tens" / str(number) / "0.png")
    for folder, names in (
        ("splits", [f"{split}/{number}" for split in ("train", "val") for number in range(10)]),
        ("strange", [*map(str, range(9)), "old"]),
        ("gaps", [*map(str, range(9)), "10"]),
        ("synced", [*map(str, range(9)), "@eaDir"]),
    ):
        for name in names:
            (directory / folder / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(directory / folder / name / "0.png")
    (directory / "nothing").mkdir()
    for number in range(4):
        path = directory / "images" / f"n0{number // 2}" / f"{number % 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), number, np.uint8)).save(path)
    for number in range(10):
        path = directory / "pointers" / str(number) / "1.jpg"
        path.parent.mkdir(parents=True)
        path.write_text("version https://git-lfs.github.com/spec/v1\n")


def _write_runs(directory):
    """Directories in which there seems to be a run."""
    for name, content in (("run", '{"seed": 0}'), ("damaged", "{")):
        (directory / name).mkdir()
        (directory / name / "config.json").write_text(content)


def _snapshot(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
        if "__pycache__" not in path.parts
    }


def _environment_of_one_process():
    """Without what a cluster tells of the processes it has started."""
    clusters = ("JAX_COORDINATOR_", "KUBERNETES_", "SLURM_", "OMPI_", "TPU_")
    alone = {name: value for name, value in os.environ.items() if not name.startswith(clusters)}
    return alone | {"TPU_SKIP_MDS_QUERY": "1"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit status, output and errors of each case; none may change anything in its directory."""
    directory, output = tmp_path_factory.mktemp("input"), tmp_path_factory.mktemp("output")
    _write_files(directory)
    before = _snapshot(directory)
    cases = [
        {"arguments": arguments, "directory": str(directory), "output": str(output / f"{number}.")}
        for number, (arguments, _) in enumerate(CASES.values())
    ]
    finished = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        cwd=directory,
        env=_environment_of_one_process() | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    assert _snapshot(directory) == before
    return {
        name: (
            int(status),
            (output / f"{number}.stdout").read_text(),
            (output / f"{number}.stderr").read_text(),
        )
        for number, (name, status) in enumerate(zip(CASES, finished.stdout.split(), strict=True))
    }


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_answered_in_one_clear_line(answers, name):
    status, output, errors = answers[name]
    assert status == 2, errors
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert CASES[name][1] in errors
