"""What a run says before it works."""

import dataclasses
import types

import jax
import pytest

from maskaq_jax.calibration import CalibrationSettings
from maskaq_jax.config import fields
from maskaq_jax.devices import parallel
from maskaq_jax.models import Quantization, create_model
from maskaq_jax.runs import expectation, workload
from maskaq_jax.runs.expectation import Cost, Speed
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.runs.plan import make_plan
from maskaq_jax.runs.progress import Progress

SWIN = "swin_tiny_patch4_window7_224"
SPEED = Speed(1e11, (0.9, 0.25), (15.0, 60.0), 1.5, 0.45e9)


@pytest.fixture(scope="module")
def costs():
    names = ("deit_tiny_patch16_224", "deit_small_patch16_224", SWIN)
    return {name: expectation.cost(create_model(name)) for name in names}


def _inputs(workdir, name="deit_tiny_patch16_224", dataset=None, **changes):
    model = create_model(name, quantization=Quantization(3, 3))
    config = dataclasses.replace(fields.Config(), **changes)
    mesh = parallel.make_mesh(jax.devices()[:1])
    return RunInputs(config, workdir, mesh, model, {}, dataset, None)


# Operations of timm's models, twice the multiplications that their papers give.
@pytest.mark.parametrize(
    ("name", "billions"),
    [("deit_tiny_patch16_224", 2.5), ("deit_small_patch16_224", 9.2), (SWIN, 9)],
)
def test_operations_are_those_of_a_pass(costs, name, billions):
    assert costs[name].operations == pytest.approx(billions * 1e9, rel=0.05)
    assert costs[name].image_bytes > costs[name].block_bytes > 1e6


# Peaks of processes that took steps of 8 images, of `docs/performance.md`.
@pytest.mark.parametrize(
    ("name", "method", "gigabytes"),
    [
        ("deit_tiny_patch16_224", "maskaq", 1.22),
        ("deit_tiny_patch16_224", "real", 1.86),
        ("deit_small_patch16_224", "maskaq", 1.87),
        ("deit_small_patch16_224", "real", 3.20),
        (SWIN, "maskaq", 2.59),
        (SWIN, "real", 4.84),
    ],
)
def test_memory_is_near_what_was_measured(costs, name, method, gigabytes, tmp_path):
    config = fields.Config()
    inputs = _inputs(
        *(tmp_path, name),
        method=method,
        samples=dataclasses.replace(config.samples, num_samples=8, batch_size=8),
        finetuning=dataclasses.replace(
            config.finetuning, batch_size=8, epochs=int(method == "real")
        ),
        evaluation=dataclasses.replace(config.evaluation, batch_size=8),
    )
    found = expectation.expect(inputs, make_plan(inputs.config), 0, costs[name], SPEED, 0)
    assert found.memory == pytest.approx(1e9 * gigabytes, rel=0.35)


def test_time_and_disk_follow_from_the_work(tmp_path):
    inputs = _inputs(tmp_path)
    plan = make_plan(inputs.config)
    one = Cost(operations=1e9, image_bytes=1e7, block_bytes=1e6, num_params=1000)
    found = expectation.expect(inputs, plan, 9e4, one, SPEED, state_bytes=2_000_000)
    assert found.seconds == pytest.approx((15 + 1000, 60 + 3600))
    # The paper's ten thousand images, made seven times, as `docs/scaling.md` has them.
    assert found.disk == pytest.approx(42e9 + 6 * 2e6, rel=0.01)
    noise = dataclasses.replace(inputs.config, method="noise")
    inputs = dataclasses.replace(inputs, config=noise)
    assert expectation.expect(inputs, plan, 9e4, one, SPEED, 2_000_000).disk == 6 * 2e6


def test_a_fit_takes_the_memory_of_all_its_views(tmp_path, costs):
    one = costs["deit_tiny_patch16_224"]
    memory = []
    for num_views in (192, 384):
        calibration = CalibrationSettings(ranges="least_squares", num_views=num_views)
        finetuning = dataclasses.replace(fields.Config().finetuning, epochs=0)
        inputs = _inputs(tmp_path, calibration=calibration, finetuning=finetuning)
        plan = make_plan(inputs.config)
        memory.append(expectation.expect(inputs, plan, 0, one, SPEED, 0).memory)
    assert memory[1] - memory[0] == pytest.approx(192 * one.block_bytes, rel=0.5)


def test_a_device_s_speed_is_measured():
    speed = expectation.measure_speed(parallel.make_mesh(jax.devices()[:1]))
    assert speed.rate > 1e8
    assert speed.shares[0] > speed.shares[1]


@pytest.mark.parametrize(
    ("dataset", "count", "num_classes", "expected"),
    [
        ("", 0, 10, "agrees with the full-precision one on the samples, and no accuracy"),
        (
            "fashion_mnist",
            60,
            10,
            "the top-1 accuracy of both models on 60 images of fashion_mnist",
        ),
        ("fashion_mnist", 60, 0, "how alike the features of both models are on 60 images"),
    ],
)
def test_what_results_will_tell_depends_on_the_images(
    dataset, count, num_classes, expected, tmp_path
):
    inputs = _inputs(tmp_path, dataset=[None] * count if dataset else None)
    evaluation = dataclasses.replace(inputs.config.evaluation, dataset=dataset, split="test")
    inputs = dataclasses.replace(
        inputs,
        config=dataclasses.replace(inputs.config, evaluation=evaluation),
        model=create_model("vit", num_classes, Quantization(3, 3)),
    )
    assert expected in expectation.what_is_told(inputs)


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setattr(expectation, "measure_speed", lambda mesh: SPEED)
    inputs = _inputs(tmp_path)
    plan = make_plan(inputs.config)
    total = workload.total(inputs, plan)
    with Progress(tmp_path / "seconds.json", workload.per_unit(inputs.config), total) as progress:
        store = types.SimpleNamespace(
            num_batches=plan.num_batches, batch_size=plan.batch_size, missing=_missing
        )
        yield types.SimpleNamespace(inputs=inputs, plan=plan, progress=progress, store=store)


def _missing(refresh):
    """Batches that are to be made: none of the last refresh."""
    return [] if refresh == 6 else range(313)


def test_a_run_says_what_it_will_take_and_what_is_left_of_it(session, monkeypatch, capsys):
    monkeypatch.setattr(expectation, "free_memory", lambda mesh: None)
    monkeypatch.setattr(
        expectation.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1e12)
    )
    expectation.tell(session, None, state_bytes=10**8)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("expected: ")
    assert " days on 1 x cpu" in first
    assert "up to 43 GB of disk" in first or "up to 42" in first
    assert second.startswith("the results will tell how far the quantized model agrees")
    expectation.tell(session, session.plan.num_steps, state_bytes=10**8)
    left, _ = capsys.readouterr().err.splitlines()
    # The samples are evaluated.
    assert " min on 1 x cpu" in left
    assert "days" not in left


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(15.4, "15 s"), (119.0, "120 s"), (151.0, "2.5 min"), (5e4, "14 h"), (4.4e6, "51 days")],
)
def test_estimates_have_two_digits(session, seconds, expected, monkeypatch, capsys):
    found = expectation.Expectation((seconds, seconds), memory=0, disk=0)
    monkeypatch.setattr(expectation, "expect", lambda *_: found)
    expectation.tell(session, None, state_bytes=0)
    assert capsys.readouterr().err.startswith(f"expected: {expected} to {expected} on 1 x cpu")


def test_too_little_disk_and_memory_are_told_before_the_work(session, monkeypatch, capsys):
    monkeypatch.setattr(expectation, "free_memory", lambda mesh: 1e8)
    monkeypatch.setattr(
        expectation.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1e9)
    )
    expectation.tell(session, None, state_bytes=10**8)
    *_, disk, memory = capsys.readouterr().err.splitlines()
    assert disk.startswith(f"warning: the disk of {session.inputs.workdir} has 1.0 GB left")
    assert memory.startswith("warning: 100 MB of memory are left, and the run may need ")


def test_the_memory_that_is_left_is_read():
    free = expectation.free_memory(parallel.make_mesh(jax.devices()[:1]))
    assert free is None or free > 1e6


def test_steps_of_synthesis_that_the_low_bit_model_has_no_part_in_are_less_work(tmp_path):
    inputs = _inputs(tmp_path)
    plan, synthesis = make_plan(inputs.config), inputs.config.synthesis
    weights = dataclasses.replace(synthesis.weights, coupling=0.0)
    alone = dataclasses.replace(
        inputs.config, synthesis=dataclasses.replace(synthesis, weights=weights)
    )
    steps = plan.num_syntheses * plan.num_batches * plan.batch_size * synthesis.num_steps
    passes = (workload.per_unit(config)["synthesis"] for config in (inputs.config, alone))
    with_q, without = (one * steps for one in passes)
    assert without < with_q / 2
    less = workload.total(inputs, plan) - workload.total(
        dataclasses.replace(inputs, config=alone), plan
    )
    assert less == pytest.approx(with_q - without)
