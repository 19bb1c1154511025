"""Losses against their formulas, written out in float64 NumPy with a loop for every index.

The losses compute in float32, where a finite difference is mostly rounding. So slopes are those of
the formulas here, and it is the formulas that finite differences are taken of.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import losses

C1, C2 = 0.01**2, 0.03**2


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _near(x, seed):
    return x + 0.3 * _normal(seed, *x.shape)


LOGITS = _normal(0, 2, 2, 3, 7, 7)
LOGITS_Q = _near(LOGITS, 1)
OUTPUTS = _normal(2, 2, 2, 3, 13, 4)
OUTPUTS_Q = _near(OUTPUTS, 3)
# Layers of different heads, tokens and windows, as Swin's.
UNEVEN = [_normal(4, 4, 2, 6, 6), _normal(5, 2, 3, 5, 5)]
BLOCKS = _normal(15, 2, 4, 10, 5)
BLOCKS_Q = _near(BLOCKS, 16)
# One of its images is nearly blank.
BLOCKS_OF_A_BLANK = BLOCKS * np.float32([1, 1, 1e-3, 1])[:, None, None]
# Patches that are alike: every value of a row is there two or three times.
ALIKE = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3])
MASK = np.array([[1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0]], np.float32)
IMAGES = _normal(8, 2, 5, 4, 3)
CLASSES = _normal(9, 3, 6)
LABELS = (4, 0, 4)
TEACHER = _normal(10, 3, 6)


def _softmax(x):
    exponential = np.exp(x - x.max())
    return exponential / exponential.sum()


def class_formula(logits):
    return -np.mean(
        [np.log(_softmax(row)[label]) for row, label in zip(logits, LABELS, strict=True)]
    )


def similarity_formula(layers, prefix=1):
    def ssim(x, y):
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        luminance = (2 * x.mean() * y.mean() + C1) / (x.mean() ** 2 + y.mean() ** 2 + C1)
        return luminance * (2 * covariance + C2) / (x.var() + y.var() + C2)

    means = []
    for layer in layers:
        distances = []
        images, heads, tokens, _ = layer.shape
        for image, query in itertools.product(range(images), range(prefix, tokens)):
            rows = [layer[image, head, query, prefix:] for head in range(heads)]
            rows = [(row - row.min()) / (row.max() - row.min()) for row in rows]
            distances += [1 - ssim(x, y) ** 2 for x in rows for y in rows]
        means.append(np.mean(distances))
    return np.mean(means)


def entropy_formula(layers, prefix=1):
    means = []
    for layer in layers:
        entropies = []
        for image in layer:
            rows = image.mean(axis=0)[prefix:, prefix:]
            cosines = [x @ y / np.sqrt((x @ x) * (y @ y)) for x in rows for y in rows]
            entropies.append(0.5 * np.log(2 * np.pi * np.e * np.var(cosines)))
        means.append(-np.mean(entropies))
    return np.mean(means)


def density_formula(layers, prefix=1, bandwidth=0.1, ends=None):
    """With the ends of each image's similarities at `ends`, which carry no gradient."""
    total = 0.0
    for number, layer in enumerate(layers):
        entropies = []
        for i, image in enumerate(layer):
            rows = image.mean(axis=0)[prefix:]
            cosines = [x @ y / np.sqrt((x @ x) * (y @ y)) for x in rows for y in rows]
            low, high = ends[number, i] if ends is not None else (min(cosines), max(cosines))
            heights = []
            for point in np.linspace(low, high, 10):
                bumps = [np.exp(-(((point - c) / bandwidth) ** 2) / 2) for c in cosines]
                density = np.mean(bumps) / (bandwidth * np.sqrt(2 * np.pi)) + 1e-4
                heights.append(-density * np.log(density))
            trapezoids = [(left + right) / 2 for left, right in itertools.pairwise(heights)]
            entropies.append(sum(trapezoids) * (high - low) / 9)
        total -= np.mean(entropies)
    return total


def _similarity_ends(layers, prefix=1):
    """Smallest and largest similarity of each layer and image, [L, B, 2]."""
    rows = layers.astype(np.float64).mean(axis=2)[:, :, prefix:]
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    cosines = (rows @ rows.swapaxes(-1, -2)).reshape(*rows.shape[:2], -1)
    return np.stack([cosines.min(axis=-1), cosines.max(axis=-1)], axis=-1)


def coupling_formula(layers_p, layers_q, mask, prefix=1):
    def score(image, patch):
        column = image[:, :, prefix + patch]
        return column[:, 0].mean() if prefix else column.mean()

    means = []
    for layer_p, layer_q in zip(layers_p, layers_q, strict=True):
        marked = [(image, patch) for image, patch in np.ndindex(*mask.shape) if mask[image, patch]]
        gaps = [
            abs(score(layer_p[image], patch) - score(layer_q[image], patch))
            for image, patch in marked
        ]
        means.append(np.mean(gaps))
    return np.mean(means)


def variation_formula(images, diagonal_weight=2**-0.5):
    _, height, width, _ = images.shape

    def norm(down, right):
        """Frobenius norm of the differences of neighbours that lie (down, right) of each other."""
        pairs = [
            (images[:, row, column], images[:, row + down, column + right])
            for row, column in np.ndindex(height, width)
            if 0 <= row + down < height and 0 <= column + right < width
        ]
        return np.sqrt(sum(((x - y) ** 2).sum() for x, y in pairs))

    return norm(1, 0) + norm(0, 1) + diagonal_weight * (norm(1, 1) + norm(1, -1))


def divergence_formula(student, teacher, temperature):
    divergences = []
    for student_row, teacher_row in zip(student, teacher, strict=True):
        p, q = _softmax(teacher_row / temperature), _softmax(student_row / temperature)
        divergences.append((p * np.log(p / q)).sum())
    return temperature**2 * np.mean(divergences)


def features_formula(student, teacher, distance):
    distances = []
    for x, y in zip(student, teacher, strict=True):
        cosine = x @ y / (np.sqrt(x @ x) * np.sqrt(y @ y))
        distances.append(1 - cosine if distance == "cosine" else ((x - y) ** 2).mean())
    return np.mean(distances)


def attention_formula(layers_p, layers_q, distance, prefix=1, ratio=0.1, high=2.0, low=1.0):
    def channel_distance(p, q, weight):
        if distance == "mse":
            return weight @ (p - q) ** 2
        if distance == "l1":
            return weight @ abs(p - q)
        if distance == "kl":
            p, q = _softmax(p), _softmax(q)
            return weight @ (p * np.log(p / q))
        p, q = p - weight @ p, q - weight @ q
        return 1 - (2 * weight @ (p * q) + C2) / (weight @ p**2 + weight @ q**2 + C2)

    means = []
    for layer_p, layer_q in zip(layers_p, layers_q, strict=True):
        distances = []
        images, heads, tokens, channels = layer_p.shape
        for image in range(images):
            patches_p, patches_q = layer_p[image, :, prefix:], layer_q[image, :, prefix:]
            importance = [abs(patches_p[:, patch]).mean() for patch in range(tokens - prefix)]
            count = max(1, round(ratio * len(importance)))
            important = np.argsort(importance)[-count:]
            weight = np.full(len(importance), low)
            weight[important] = high
            weight /= weight.sum()
            distances += [
                channel_distance(patches_p[head, :, channel], patches_q[head, :, channel], weight)
                for head, channel in itertools.product(range(heads), range(channels))
            ]
        means.append(np.mean(distances))
    return np.mean(means)


def blocks_formula(blocks_p, blocks_q, ratio):
    shares = []
    for layer_p, layer_q in zip(blocks_p, blocks_q, strict=True):
        spreads = layer_p - layer_p.mean(axis=1, keepdims=True)
        variances = [(spread**2).mean() for spread in spreads]
        for p, q, spread, variance in zip(layer_p, layer_q, spreads, variances, strict=True):
            weight = np.ones(len(p))
            weight[np.argsort(-np.abs(spread).mean(axis=1))[: round(ratio * len(p))]] = 2.0
            error = weight @ ((p - q) ** 2).mean(axis=1) / weight.sum()
            shares.append(error / (max(variance, np.mean(variances) / 100) + 1e-6))
    return np.mean(shares)


def _attention(distance, p=OUTPUTS, q=OUTPUTS_Q, prefix=1, **choices):
    loss = losses.masked_attention_distillation_loss
    return (
        lambda x: loss(_arrays(p), x, prefix, distance=distance, **choices),
        lambda x: attention_formula(p, x, distance, prefix, **choices),
        q,
    )


def _blocks(p):
    return (
        lambda x: losses.masked_block_distillation_loss(jnp.asarray(p), x, ratio=0.3),
        lambda x: blocks_formula(p, x, ratio=0.3),
        BLOCKS_Q,
    )


def _features(distance):
    return (
        lambda x: losses.feature_distillation_loss(x, jnp.asarray(TEACHER), distance),
        lambda x: features_formula(x, TEACHER, distance),
        CLASSES,
    )


def _coupling(p=LOGITS, q=LOGITS_Q, mask=MASK, prefix=1):
    return (
        lambda x: losses.masked_attention_loss(_arrays(p), x, jnp.asarray(mask), prefix),
        lambda x: coupling_formula(p, x, mask, prefix),
        q,
    )


def _arrays(layers):
    return jax.tree.map(jnp.asarray, layers)


# claim: (loss, its formula, where both are compared)
CASES = {
    "classes": (
        lambda x: losses.class_loss(x, jnp.array(LABELS)),
        class_formula,
        CLASSES,
    ),
    "similarity": (losses.inter_head_similarity_loss, similarity_formula, LOGITS),
    "similarity of windows": (
        lambda x: losses.inter_head_similarity_loss(x, 0),
        lambda x: similarity_formula(x, 0),
        UNEVEN,
    ),
    "similarity beside two prefix tokens": (
        lambda x: losses.inter_head_similarity_loss(x, 2),
        lambda x: similarity_formula(x, 2),
        LOGITS,
    ),
    "similarity of patches that are alike": (
        lambda x: losses.inter_head_similarity_loss(x[..., ALIKE], 0),
        lambda x: similarity_formula(x[..., ALIKE], 0),
        _normal(17, 2, 2, 3, 9, 4),
    ),
    "entropy": (losses.patch_similarity_entropy_loss, entropy_formula, LOGITS),
    "entropy of windows": (
        lambda x: losses.patch_similarity_entropy_loss(x, 0),
        lambda x: entropy_formula(x, 0),
        UNEVEN,
    ),
    "density": (
        lambda x: losses.patch_similarity_density_loss(x, bandwidth=0.1),
        lambda x: density_formula(x, ends=_similarity_ends(OUTPUTS)),
        OUTPUTS,
    ),
    "coupling": _coupling(),
    "coupling beside two prefix tokens": _coupling(mask=MASK[:, :5], prefix=2),
    "coupling without a class token": _coupling(mask=np.pad(MASK, ((0, 0), (1, 0))), prefix=0),
    "total variation": (losses.total_variation_loss, variation_formula, IMAGES),
    "total variation, full diagonals": (
        functools.partial(losses.total_variation_loss, diagonal_weight=1.0),
        functools.partial(variation_formula, diagonal_weight=1.0),
        IMAGES,
    ),
    "distillation": (
        lambda x: losses.distillation_loss(x, jnp.asarray(TEACHER), 5.0),
        lambda x: divergence_formula(x, TEACHER, 5.0),
        CLASSES,
    ),
    "feature distillation by cosine": _features("cosine"),
    "feature distillation by mse": _features("mse"),
    "attention distillation": _attention("ssim"),
    "attention distillation of windows": _attention(
        "ssim",
        [_normal(11, 4, 2, 9, 4), _normal(12, 2, 3, 9, 4)],
        [_normal(13, 4, 2, 9, 4), _normal(14, 2, 3, 9, 4)],
        prefix=0,
    ),
    "attention distillation of other weights": _attention("ssim", ratio=0.4, high=5.0, low=0.5),
    "attention distillation by mse": _attention("mse"),
    "attention distillation by l1": _attention("l1"),
    "attention distillation by kl": _attention("kl"),
    "block distillation": _blocks(BLOCKS),
    "block distillation of a blank": _blocks(BLOCKS_OF_A_BLANK),
}


@pytest.mark.parametrize("name", CASES)
def test_every_loss_and_its_slopes_are_those_of_its_formula(name):
    loss, formula, x = CASES[name]
    value, gradient = jax.jit(jax.value_and_grad(loss))(_arrays(x))
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), x)
    np.testing.assert_allclose(value, formula(exact), rtol=1e-4)

    for seed in range(3):
        draw = np.random.default_rng(100 + seed).normal
        direction = jax.tree.map(lambda leaf, draw=draw: draw(size=leaf.shape), exact)
        ahead, behind = (
            formula(jax.tree.map(lambda leaf, step, h=h: leaf + h * step, exact, direction))
            for h in (1e-6, -1e-6)
        )
        products = jax.tree.map(lambda slope, step: (slope * step).sum(), gradient, direction)
        largest = max(np.abs(slope).max() for slope in jax.tree.leaves(gradient))
        np.testing.assert_allclose(
            sum(jax.tree.leaves(products)), (ahead - behind) / 2e-6, rtol=1e-3, atol=1e-3 * largest
        )


def test_coupling_pulls_p_and_q_against_each_other():
    pull_p, pull_q = jax.jit(jax.grad(losses.masked_attention_loss, (0, 1)))(
        jnp.asarray(LOGITS), jnp.asarray(LOGITS_Q), jnp.asarray(MASK)
    )
    assert pull_p.any()
    np.testing.assert_array_equal(pull_p, -pull_q)


def test_the_mask_of_coupling_carries_no_gradient():
    gradient = jax.jit(jax.grad(losses.masked_attention_loss, 2))(
        jnp.asarray(LOGITS), jnp.asarray(LOGITS_Q), jnp.asarray(MASK)
    )
    assert not gradient.any()


@pytest.mark.parametrize("distance", ["ssim", "mse", "l1", "kl"])
def test_attention_distillation_leaves_the_teacher_alone(distance):
    loss = functools.partial(losses.masked_attention_distillation_loss, distance=distance)
    gradient = jax.jit(jax.grad(loss))(jnp.asarray(OUTPUTS), jnp.asarray(OUTPUTS_Q))
    assert not gradient.any()


def test_block_distillation_leaves_the_teacher_alone():
    loss = losses.masked_block_distillation_loss
    assert not jax.grad(loss)(jnp.asarray(BLOCKS_OF_A_BLANK), jnp.asarray(BLOCKS_Q)).any()


def test_distillation_leaves_the_teacher_alone():
    gradient = jax.grad(losses.distillation_loss, 1)(
        jnp.asarray(CLASSES), jnp.asarray(TEACHER), 5.0
    )
    assert not gradient.any()


def test_sampled_rows_depend_on_the_key_and_the_layer_alone():
    @jax.jit
    def loss(layers, key):
        return losses.patch_similarity_entropy_loss(layers, key=jax.random.key(key), max_patches=4)

    layer = jnp.asarray(LOGITS[:1])
    assert loss(layer, 0) == loss(layer, 0)
    assert len({float(loss(layer, key)) for key in range(5)}) > 1
    # Layers of the same logits differ only if each draws rows of its own.
    twins = jnp.concatenate([layer, layer])
    assert loss(twins, 0) != loss(layer, 0)


def test_layers_of_few_patches_draw_no_rows():
    few, many = LOGITS[0], _normal(9, 2, 3, 9, 9)
    rows = jax.random.permutation(jax.random.fold_in(jax.random.key(2), 1), 8)[:6]
    drawn = np.concatenate([many[:, :, :1], many[:, :, 1:][:, :, rows]], axis=2)
    loss = losses.patch_similarity_entropy_loss(
        [jnp.asarray(few), jnp.asarray(many)], key=jax.random.key(2), max_patches=6
    )
    np.testing.assert_allclose(loss, entropy_formula([few, drawn]), rtol=1e-4)


def test_enough_room_for_all_patches_needs_no_draw():
    logits = jnp.asarray(LOGITS)
    all_rows = losses.patch_similarity_entropy_loss(logits, max_patches=6)
    keyed = losses.patch_similarity_entropy_loss(logits, key=jax.random.key(0), max_patches=6)
    assert all_rows == keyed
