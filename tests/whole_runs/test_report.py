"""`report.html` of runs, at their end and by `python -m maskaq_jax.report`."""

import json
import re
import shutil

import pytest

from maskaq_jax import report, run
from maskaq_jax.report import __main__ as command
from maskaq_jax.report import page
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy, which may be changed."""
    return shutil.copytree(finished[0], tmp_path / "run")


def _sections(workdir):
    html = (workdir / "report.html").read_text(encoding="utf-8")
    return html, set(re.findall(r'<section id="(\w+)"', html))


def test_a_finished_run_is_reported_and_again_with_what_came_since(workdir, finished, capsys):
    command.main([f"--workdir={workdir}"])
    assert capsys.readouterr().out == f"wrote {workdir / 'report.html'}\n"
    html, sections = _sections(workdir)
    assert {"accuracy", "samples", "attention", "losses", "layers", "settings"} <= sections
    for name in ("fp_top1", "calibrated_top1", "quantized_top1"):
        assert f"{finished[1][name]:.2f}" in html
    assert html.count('id="sample-') == 12
    assert html.count("Full-precision attention to sample") == 4
    # Two batches of images, made twice, and three epochs.
    assert "distillation of finetuning by epoch" in html
    assert "classes of synthesis by batch" in html
    assert "python -m maskaq_jax.export" in html
    assert "Not measured" in html
    assert 'class="notes"' not in html
    loss = {"layer": "blocks_1.mlp.fc2", "tensor": "weight", "bits": 4, "agreement": 75.0}
    told = {"weight_bits": 4, "activation_bits": 4, "num_images": 6, "suggested_rules": ""}
    told["tensors"] = [loss | {"divergence": 0.25}]
    (workdir / "sensitivity.json").write_text(json.dumps(told))
    (workdir / "model.onnx").write_bytes(bytes(2048))
    command.main([f"--workdir={workdir}"])
    html, _ = _sections(workdir)
    assert "Not measured" not in html
    assert "0.2500" in html
    assert "model.onnx" in html


def test_a_run_whose_weights_are_gone_is_reported_without_them(workdir, capsys):
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["weights"] = "gone.safetensors"
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "sensitivity.json").write_text("{")
    command.main([f"--workdir={workdir}"])
    html, sections = _sections(workdir)
    assert "accuracy" in sections
    assert "samples" not in sections
    assert "gone.safetensors" in html.split('class="notes"')[1].split("</ul>")[0]
    assert "sensitivity.json can&#x27;t be read" in html


def test_a_run_ends_well_whether_its_report_does_or_not(finished, settings, workdir, capsys):
    def fail(contents):
        raise RuntimeError("no\nroom")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "render", fail)
        results = run.run(tiny.prepare(settings, workdir), at_end=report.write_at_end)
    assert tiny.accuracies(results) == tiny.accuracies(finished[1])
    warnings = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning")]
    assert warnings == [
        "warning: report.html could not be written: no room (the run is complete without it; "
        f"python -m maskaq_jax.report --workdir={workdir} tries again)"
    ]
    assert not (workdir / "report.html").exists()


def test_what_is_no_finished_run_is_refused_in_one_line(workdir, tmp_path, capsys):
    (workdir / "results.json").unlink()
    for place, reason in ((workdir, "no finished run"), (tmp_path / "none", "no finished run")):
        with pytest.raises(SystemExit) as end:
            command.main([f"--workdir={place}"])
        assert end.value.code == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith("error: ")
        assert reason in errors
        assert errors.count("\n") == 1
