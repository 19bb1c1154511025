import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import regions


@pytest.fixture(scope="module")
def logits():
    return jax.random.normal(jax.random.key(0), (2, 3, 2, 10, 10))


@pytest.mark.parametrize("ratio", ["0.5", "0.3", "0.1"])
def test_masks_agree_with_the_reference(golden, ratio):
    arrays = golden("losses_vit")
    mask = regions.informative_regions(jnp.asarray(arrays["logits_p"]), float(ratio))
    np.testing.assert_array_equal(mask, arrays[f"mask_{ratio}"])


def test_ratio_agrees_with_the_reference(golden, close):
    arrays = golden("losses_vit")
    ratios = [regions.mask_ratio(step, 2000) for step in arrays["mask_ratio_iters"]]
    close(ratios, arrays["mask_ratio_values"])


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, 1), (0.1, 1), (0.5, 4), (0.99, 8), (1.0, 9)])
def test_the_top_ratio_is_kept_and_at_least_one_patch(logits, ratio, kept):
    assert (regions.informative_regions(logits, ratio).sum(axis=1) == kept).all()


def test_a_ratio_is_not_rounded_to_float32():
    assert regions.informative_regions(jnp.zeros((1, 1, 1, 91, 91)), 0.7).sum() == int(0.7 * 90)


def test_the_highest_scores_are_kept(logits):
    mask = np.asarray(regions.informative_regions(logits, 0.5))
    scores = np.asarray(logits)[:, :, :, 0, 1:].mean(axis=(0, 2))
    assert (scores[mask == 1].reshape(3, 4).min(1) > scores[mask == 0].reshape(3, 5).max(1)).all()


@pytest.mark.parametrize(("num_prefix_tokens", "patches"), [(0, 10), (1, 9), (2, 8)])
def test_prefix_tokens_are_no_patches(logits, num_prefix_tokens, patches):
    mask = regions.informative_regions(logits, 0.5, num_prefix_tokens)
    assert mask.shape == (3, patches)


def test_layers_may_come_stacked_or_listed(logits):
    np.testing.assert_array_equal(
        regions.informative_regions(logits, 0.5), regions.informative_regions(list(logits), 0.5)
    )


def test_masks_carry_no_gradient(logits):
    gradient = jax.grad(lambda x: regions.informative_regions(x, 0.5).sum())(logits)
    assert not gradient.any()


@pytest.mark.parametrize(("kept", "stay"), [(1, 1), (2, 1), (4, 3), (10, 7), (45, 31)])
def test_dropping_keeps_seven_tenths_of_the_mask(kept, stay):
    mask = (jnp.arange(50) < kept).astype(jnp.float32)
    keys = jax.random.split(jax.random.key(0), 20)
    dropped = np.asarray(jax.vmap(regions.drop_regions, (0, None))(keys, mask))
    assert (dropped.sum(axis=1) == stay).all()
    assert (dropped <= np.asarray(mask)).all()
    assert kept == 1 or len(np.unique(dropped, axis=0)) > 1


def test_dropping_treats_every_image_alone():
    mask = jnp.array([[1.0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]])
    dropped = regions.drop_regions(jax.random.key(1), mask)
    np.testing.assert_array_equal(dropped.sum(axis=1), [3, 1])


def test_the_ratio_stays_at_its_end_after_the_last_step():
    np.testing.assert_allclose(regions.mask_ratio(150, 100, 0.5, 0.1), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((jnp.arange(3), 100), "step must be a scalar"),
        ((0, 100, 1.5), "initial must be 0 to 1, got 1.5"),
        ((0, 100, 0.5, -0.1), "final must be 0 to 1, got -0.1"),
        ((0, 0), "num_steps must be positive, got 0"),
    ],
)
def test_a_ratio_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        regions.mask_ratio(*arguments)


def test_dropping_nearly_everything_leaves_one_region():
    mask = jnp.array([1.0, 1, 0, 1])
    assert regions.drop_regions(jax.random.key(0), mask, rate=0.9).sum() == 1


def test_dropping_from_an_empty_mask_marks_nothing():
    assert not regions.drop_regions(jax.random.key(0), jnp.zeros((2, 5))).any()


@pytest.fixture(scope="module")
def windows():
    """Two layers of two images: four windows of nine tokens, and one window of four."""
    first, second = jax.random.split(jax.random.key(1))
    return jax.random.normal(first, (8, 2, 9, 9)), jax.random.normal(second, (2, 3, 4, 4))


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, (1, 1)), (0.5, (18, 2)), (1.0, (36, 4))])
def test_windows_share_the_top_ratio_of_their_image(windows, ratio, kept):
    masks = regions.window_regions(windows, ratio, num_images=2)
    assert [mask.shape for mask in masks] == [(2, 36), (2, 4)]
    for mask, count in zip(masks, kept, strict=True):
        assert (mask.sum(axis=1) == count).all()


def test_the_tokens_that_receive_most_attention_are_kept(windows):
    mask = np.asarray(regions.window_regions(windows, 0.25, num_images=2)[0])
    received = np.asarray(windows[0]).mean(axis=(1, 2)).reshape(2, 36)
    for image in range(2):
        assert received[image][mask[image] == 1].min() > received[image][mask[image] == 0].max()


def test_windows_carry_no_gradient(windows):
    gradient = jax.grad(lambda layer: regions.window_regions([layer], 0.5, 2)[0].sum())(windows[0])
    assert not gradient.any()


def _layers_and_patches(windows, shared):
    if shared:
        return [windows[1]] * 2, regions.PatchTokens(num_before=1)
    return windows, regions.WINDOWS


@pytest.mark.parametrize("shared", [True, False])
def test_patches_are_dropped_from_the_informative_ones(windows, shared):
    layers, patches = _layers_and_patches(windows, shared)
    keys = jax.random.split(jax.random.key(2), 2)
    whole = regions.coupled_regions(layers, 0.5, 0.0, keys, patches)
    coupled = regions.coupled_regions(layers, 0.5, 0.3, keys, patches)
    for all_kept, some in zip(whole, coupled, strict=True):
        kept = np.asarray(all_kept.sum(axis=1))
        assert (some <= all_kept).all()
        np.testing.assert_array_equal(some.sum(axis=1), np.maximum(1, np.round(0.7 * kept)))


@pytest.mark.parametrize("shared", [True, False])
def test_every_image_has_as_many_coupled_patches(windows, shared):
    """So that the coupling, divided by their number in the batch, is a mean over images."""
    layers, patches = _layers_and_patches(windows, shared)
    for ratio in (0.1, 0.4, 1.0):
        keys = jax.random.split(jax.random.key(2), 2)
        for mask in regions.coupled_regions(layers, ratio, 0.3, keys, patches):
            first, second = mask.sum(axis=1)
            assert first == second >= 1


# Attention of three tokens before the patches, five patches and two tokens behind, [B, H, N, N].
ATTENTION = np.arange(2 * 3 * 10 * 10, dtype=np.float32).reshape(2, 3, 10, 10) ** 1.5


@pytest.mark.parametrize(
    ("scored_by", "queries"),
    [("class token", slice(1)), ("tokens behind", slice(8, 10)), ("all patches", slice(3, 8))],
)
def test_patches_are_scored_by_the_tokens_that_the_model_names(scored_by, queries):
    patches = regions.PatchTokens(num_before=3, num_behind=2, scored_by=scored_by)
    expected = ATTENTION[:, :, queries, 3:8].mean(axis=(1, 2))
    np.testing.assert_allclose(patches.scores(jnp.asarray(ATTENTION)), expected, rtol=1e-6)


def test_patches_lie_between_the_other_tokens():
    patches = regions.PatchTokens(num_before=3, num_behind=2)
    layer = jnp.asarray(ATTENTION)
    np.testing.assert_array_equal(patches.logits(layer), ATTENTION[:, :, 3:8, 3:8])
    np.testing.assert_array_equal(patches.outputs(layer), ATTENTION[:, :, 3:8])
    assert patches.num_patches(layer) == 5


def test_a_vit_without_class_token_is_not_taken_for_windows(logits):
    """Its layers share their regions, where a model with windows has some for each layer."""
    patches = regions.PatchTokens(num_before=0, scored_by="all patches")
    keys = jax.random.split(jax.random.key(2), 3)
    first, second = regions.coupled_regions(logits, 0.3, 0.0, keys, patches)
    received = np.asarray(logits).mean(axis=(0, 2, 3))
    for image in range(3):
        assert set(np.flatnonzero(first[image])) == set(np.argsort(received[image])[-3:])
    np.testing.assert_array_equal(first, second)
    own = regions.coupled_regions(logits, 0.3, 0.0, keys, regions.WINDOWS)
    assert (own[0] != own[1]).any()
    np.testing.assert_array_equal(first, regions.coupled_regions(logits, 0.3, 0.0, keys, 0)[0])


@pytest.mark.parametrize("scored_by", ["class token", "tokens behind"])
def test_tokens_that_are_not_there_score_nothing(scored_by):
    with pytest.raises(ValueError, match=f"scored by the {scored_by}: there is none"):
        regions.PatchTokens(num_before=0, scored_by=scored_by)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: regions.informative_regions(jnp.ones((2, 3, 10, 10)), 0.5),
            r"logits must be \[layers, batch, heads, tokens, tokens\], got shape \(2, 3, 10, 10\)",
        ),
        (
            lambda: regions.informative_regions([jnp.ones((2, 3, 4, 5))], 0.5),
            r"tokens, tokens\], got shape \(2, 3, 4, 5\)",
        ),
        (
            lambda: regions.informative_regions([jnp.ones((2, 3, n, n)) for n in (4, 9)], 0.5),
            r"the same shape, got \(2, 3, 4, 4\) and \(2, 3, 9, 9\)",
        ),
        (
            lambda: regions.patch_scores(jnp.ones((2, 3, 4, 4), int), 1),
            "must have floating dtype, got int32",
        ),
        (
            lambda: regions.patch_scores(jnp.ones((2, 3, 4, 4)), 4),
            "a layer of 4 tokens has no patches, with 4 tokens before and 0 behind them",
        ),
        (
            lambda: regions.window_regions([jnp.ones((5, 3, 4, 4))], 0.5, 2),
            "logits of 5 windows can't be those of 2 images",
        ),
        (
            lambda: regions.patch_logits(jnp.ones(4), 1),
            r"logits must be \[\.\.\., tokens, tokens\], got shape \(4,\)",
        ),
        (
            lambda: regions.informative_regions(jnp.ones((1, 2, 1, 4, 4)), 3.0),
            r"ratio must be 0 to 1, got 3\.0",
        ),
        (
            lambda: regions.informative_regions(jnp.ones((1, 2, 1, 4, 4)), jnp.ones(2)),
            r"ratio must be a scalar, got shape \(2,\)",
        ),
        (
            lambda: regions.window_regions([jnp.ones((2, 1, 4, 4))], -0.5, 2),
            r"ratio must be 0 to 1, got -0\.5",
        ),
        (
            lambda: regions.drop_regions(jax.random.key(0), jnp.ones(4), 2),
            "rate must be 0 to 1, got 2",
        ),
        (
            lambda: regions.coupled_regions(
                jnp.ones((1, 2, 1, 4, 4)), 0.5, 0.0, jax.random.split(jax.random.key(0), 3)
            ),
            "keys must be one an image, got 3 for 2 images",
        ),
    ],
)
def test_arrays_that_do_not_fit_and_numbers_that_are_no_shares_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
