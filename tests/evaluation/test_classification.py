import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import swin_fashion, vit_fashion
from maskaq_jax import config, data
from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.devices import parallel
from maskaq_jax.evaluation.classification import Classification, Confidence
from maskaq_jax.evaluation.loop import EvaluationLoop
from maskaq_jax.models import Quantization, create_model
from maskaq_jax.runs.inputs import prepare

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
BATCH = 8


class GivenLogits:
    """A model whose images are their own logits, in one pixel."""

    def apply(self, variables, images):
        return images[:, 0, 0], {}


@functools.partial(jax.jit, static_argnums=0)
def _count(model, variables, images, labels, valid):
    counts = Classification().count(model, variables, LabelledBatch(images, labels, valid))
    return counts["correct"], counts["images"]


def _one_hot(classes):
    return jax.nn.one_hot(jnp.asarray(classes), 4)[:, None, None]


def test_the_largest_logit_is_the_answer():
    images, labels = _one_hot([0, 1, 2, 3, 3]), jnp.array([0, 1, 2, 3, 0])
    correct, total = _count(GivenLogits(), {}, images, labels, jnp.ones(5, bool))
    assert (int(correct), int(total)) == (4, 5)


@pytest.mark.parametrize("hit", [True, False])
def test_padding_counts_neither_as_right_nor_as_wrong(hit):
    images, labels = _one_hot([1, 1, 1, 1]), jnp.full(4, 1 if hit else 2)
    valid = jnp.array([True, False, True, False])
    correct, total = _count(GivenLogits(), {}, images, labels, valid)
    assert (int(correct), int(total)) == (2 * hit, 2)


def test_counts_are_integers():
    counts = _count(GivenLogits(), {}, _one_hot([1]), jnp.array([1]), jnp.array([True]))
    assert [count.dtype for count in counts] == [jnp.int32, jnp.int32]


def test_confidence_is_the_mean_of_the_largest_probabilities():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.0, 1.0, 0.0]]) + 1e-9)
    images, valid = logits[:, None, None], jnp.array([True, True, False])
    batch = LabelledBatch(images, jnp.array([0, 2, 1]), valid)
    evaluator = Confidence()
    figures = evaluator.finish([evaluator.count(GivenLogits(), {}, batch)])
    assert figures == {"top1": 50.0, "confidence": pytest.approx(60.0)}


@pytest.fixture(scope="module")
def dataset():
    """A quantized model, 19 images, and labels that it gets right about half of the time."""
    model = create_model("vit", 3, Quantization(4, 4), **TINY)
    images = jax.random.normal(jax.random.key(0), (19, 8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    answers = np.asarray(jax.jit(model.apply)(variables, images)[0].argmax(axis=-1))
    labels = np.where(np.arange(19) % 2, answers, 0).astype(np.int32)
    return model, variables, np.asarray(images), labels, answers


def _batches(images, labels):
    for start in range(0, len(labels), BATCH):
        image, label = images[start : start + BATCH], labels[start : start + BATCH]
        padding = BATCH - len(label)
        yield LabelledBatch(
            np.pad(image, [(0, padding), (0, 0), (0, 0), (0, 0)]),
            np.pad(label, (0, padding)),
            np.arange(BATCH) < len(label),
        )


def test_accuracy_over_batches_is_a_plain_share(dataset):
    model, variables, images, labels, answers = dataset
    loop = EvaluationLoop(Classification(), model, parallel.make_mesh(jax.devices()[:1]))
    done = []
    figures, count = loop.run(variables, _batches(images, labels), done.append)
    percent = figures["top1"]
    assert count == 19
    assert percent == pytest.approx(100 * np.mean(answers == labels))
    assert 0 < percent < 100
    assert done == [8, 8, 3]


@pytest.mark.slow
@pytest.mark.parametrize("experiment_config", [vit_fashion, swin_fashion], ids=["vit", "swin"])
def test_an_embedded_teacher_is_right_about_nine_images_of_ten(experiment_config, tmp_path):
    settings = config.validated(experiment_config.get_config())
    inputs = prepare(settings, tmp_path / "run")
    model, mesh = inputs.model.clone(quantization=None), parallel.make_mesh(jax.devices()[:1])
    rows = parallel.rows_of_batches(2000, 250, mesh)
    batches = data.read_batches(inputs.evaluation, settings.pixels, model.input_shape, rows)
    loop = EvaluationLoop(Classification(), model, mesh)
    figures, count = loop.run({"params": inputs.params}, batches, lambda done: None)
    assert count == 2000
    assert figures["top1"] >= 90
