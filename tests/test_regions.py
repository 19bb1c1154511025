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


@pytest.mark.parametrize("num_prefix_tokens", [0, 1])
def test_patches_are_dropped_from_the_informative_ones(windows, num_prefix_tokens):
    layers = [windows[1]] * 2 if num_prefix_tokens else windows
    keys = jax.random.split(jax.random.key(2), 2)
    whole = regions.coupled_regions(layers, 0.5, 0.0, keys, num_prefix_tokens)
    coupled = regions.coupled_regions(layers, 0.5, 0.3, keys, num_prefix_tokens)
    for all_kept, some in zip(whole, coupled, strict=True):
        kept = np.asarray(all_kept.sum(axis=1))
        assert (some <= all_kept).all()
        np.testing.assert_array_equal(some.sum(axis=1), np.maximum(1, np.round(0.7 * kept)))


@pytest.mark.parametrize("num_prefix_tokens", [0, 1])
def test_every_image_has_as_many_coupled_patches(windows, num_prefix_tokens):
    """So that the coupling, divided by their number in the batch, is a mean over images."""
    layers = [windows[1]] * 2 if num_prefix_tokens else windows
    for ratio in (0.1, 0.4, 1.0):
        keys = jax.random.split(jax.random.key(2), 2)
        for mask in regions.coupled_regions(layers, ratio, 0.3, keys, num_prefix_tokens):
            first, second = mask.sum(axis=1)
            assert first == second >= 1
