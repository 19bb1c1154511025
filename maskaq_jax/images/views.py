"""Random views of images: the synthesis jitter and the fine-tuning augmentation.

Every view is drawn from a key of its own image, so it doesn't depend on the batch it stands in.
Source: `docs/method.md` sections 2 and 3.
"""

import dataclasses

import dm_pix
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from maskaq_jax.devices import arrays
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.schema import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFraction

_GREY_WEIGHTS = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class SynthesisView:
    """How synthesis jitters images; a strength of 0 leaves that part out.

    Attributes:
      roll: largest roll in the second half of a run, as a share of the image side; half of it in
        the first half. The paper's 16 pixels of 224 are 1 / 14.
      brightness: standard deviation, at the start, of the shift per channel; it falls to 0.
      colour: bound of the uniform mean and log deviation of the colour change.
      flip: probability of a horizontal flip.
    """

    roll: Fraction = 1 / 14
    brightness: NonNegativeFloat = 0.5
    colour: NonNegativeFloat = 1.0
    flip: Fraction = 0.0


@dataclasses.dataclass(frozen=True)
class FinetuningView:
    """How fine-tuning augments images; a probability of 0 leaves that part out.

    Attributes:
      min_area: smallest share of the image a crop covers; 1 leaves crops out.
      flip: probability of a horizontal flip.
      jitter: probability of colour jitter.
      grey: probability of turning grey.
      blur: probability of Gaussian blur.
      shift: largest shift in pixels, the border filled with its edge.
    """

    min_area: PositiveFraction = 0.08
    flip: Fraction = 0.5
    jitter: Fraction = 0.8
    grey: Fraction = 0.2
    blur: Fraction = 1.0
    shift: NonNegativeInt = 0


def synthesis_view(
    keys: Array, images: Array, step: ArrayLike, num_steps: int, settings: SynthesisView
) -> Array:
    """Rolls, flips, brightens and recolours each image.

    Args:
      keys: [B] PRNG keys, one an image.
      images: [B, height, width, channels] float32, normalised.
      step: [] step number t.
      num_steps: T, the steps of the run.
      settings: strengths.

    Returns:
      Views, shape and dtype of `images`.

    Raises:
      ValueError: images of other axes or not of floating dtype, or not as many as keys.
    """
    _check_images(keys, images)
    side = images.shape[1]
    step = jnp.asarray(step)
    largest_roll = round(settings.roll * side)
    is_first_half = step < num_steps / 2
    roll = jnp.where(is_first_half, round(settings.roll * side / 2), largest_roll)
    brightness = settings.brightness * (num_steps - 1 - step) / num_steps
    channels = images.shape[-1]

    def view(key: Array, image: Array) -> Array:
        roll_key, brightness_key, mean_key, scale_key, flip_key = jax.random.split(key, 5)
        if largest_roll:
            shift = jax.random.randint(roll_key, (2,), -roll, roll + 1)
            image = jnp.roll(image, shift, axis=(0, 1))
        if settings.flip:
            image = _flip(flip_key, image, settings.flip)
        if settings.brightness:
            image = image + brightness * jax.random.normal(brightness_key, (1, 1, channels))
        if settings.colour:
            mean = jax.random.uniform(
                mean_key, (1, 1, channels), minval=-settings.colour, maxval=settings.colour
            )
            log_deviation = jax.random.uniform(
                scale_key, (1, 1, channels), minval=-settings.colour, maxval=settings.colour
            )
            image = (image - mean) / jnp.exp(log_deviation)
        return image

    return jax.vmap(view)(keys, images)


def finetuning_view(keys: Array, images: Array, pixels: Pixels, settings: FinetuningView) -> Array:
    """Crops, flips, recolours and blurs each image, as contrastive learning does.

    Args:
      keys: [B] PRNG keys, one an image.
      images: [B, height, width, channels] float32, normalised.
      pixels: the normalisation; colours change on de-normalised pixels.
      settings: probabilities.

    Returns:
      Views, shape and dtype of `images`.

    Raises:
      ValueError: as of `synthesis_view`; or images of other channels than the pixels'.
    """
    _check_images(keys, images)
    pixels.check_images(images)
    chances = settings.jitter, settings.grey, settings.blur

    def view(key: Array, image: Array) -> Array:
        crop_key, flip_key, shift_key, draw_key, jitter_key, blur_key = jax.random.split(key, 6)
        if settings.min_area < 1:
            image = _random_resized_crop(crop_key, image, settings.min_area)
        if settings.shift:
            image = _shift(shift_key, image, settings.shift)
        image = _flip(flip_key, image, settings.flip)
        if not any(chances):
            return image
        drawn = jax.random.uniform(draw_key, (3,)) < jnp.asarray(chances)
        is_jittered, is_grey, is_blurred = drawn
        image = pixels.denormalise(image)
        if settings.jitter:
            image = jnp.where(is_jittered, _jitter(jitter_key, image), image)
        if settings.grey:
            image = jnp.where(is_grey, _grey(image), image)
        if settings.blur:
            image = jnp.where(is_blurred, _blur(blur_key, image), image)
        return pixels.normalise(image)

    return jax.vmap(view)(keys, images)


def _check_images(keys: Array, images: Array) -> None:
    arrays.check_axes("images", images, "batch height width channels", "floating")
    arrays.check_count("keys", keys, len(images))


def _flip(key: Array, image: Array, probability: float) -> Array:
    return jnp.where(jax.random.bernoulli(key, probability), image[:, ::-1], image)


def _shift(key: Array, image: Array, largest: int) -> Array:
    padded = jnp.pad(image, ((largest, largest), (largest, largest), (0, 0)), mode="edge")
    row, column = jax.random.randint(key, (2,), 0, 2 * largest + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def _random_resized_crop(key: Array, image: Array, min_area: float) -> Array:
    """A box of random area and aspect in [3/4, 4/3], resized bilinearly to the image's shape."""
    area_key, aspect_key, corner_key = jax.random.split(key, 3)
    size = jnp.asarray(image.shape[:2], jnp.float32)
    area = jax.random.uniform(area_key, minval=min_area, maxval=1.0)
    aspect = jnp.exp(jax.random.uniform(aspect_key, minval=jnp.log(3 / 4), maxval=jnp.log(4 / 3)))
    box = jnp.sqrt(area * jnp.stack([1 / aspect, aspect])) * size
    box = jnp.minimum(box, size)
    corner = jax.random.uniform(corner_key, (2,)) * (size - box)
    scale = size / box
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale, -corner * scale, method="linear", antialias=False
    )


def _jitter(key: Array, pixels: Array) -> Array:
    """Brightness, contrast and saturation by up to 80%, hue by up to a fifth of the circle."""
    factor_key, hue_key = jax.random.split(key)
    brightness, contrast, saturation = jax.random.uniform(factor_key, (3,), minval=0.2, maxval=1.8)
    pixels = jnp.clip(brightness * pixels, 0, 1)
    level = _grey(pixels).mean()
    pixels = jnp.clip(level + contrast * (pixels - level), 0, 1)
    grey = _grey(pixels)
    pixels = jnp.clip(grey + saturation * (pixels - grey), 0, 1)
    if pixels.shape[-1] == 1:
        return pixels  # grey has no hue
    hue = jax.random.uniform(hue_key, minval=-0.2, maxval=0.2)
    return dm_pix.adjust_hue(pixels, hue)


def _grey(pixels: Array) -> Array:
    level = (pixels * jnp.asarray(_GREY_WEIGHTS)[None, None]).sum(axis=-1, keepdims=True)
    return jnp.broadcast_to(level, pixels.shape)


def _blur(key: Array, pixels: Array) -> Array:
    """Gaussian blur with an odd kernel of about a tenth of the image, reflected at the border.

    By two products with a banded matrix, which a CPU computes far faster than a convolution.
    """
    height, width, _ = pixels.shape
    sigma = jax.random.uniform(key, minval=0.1, maxval=2.0)
    radius = int(0.1 * height) // 2
    offset = jnp.arange(-radius, radius + 1)
    weight = jnp.exp(-jnp.square(offset / sigma) / 2)

    def matrix(side: int) -> Array:
        # Row i has the weights of what pixel i sees, reflections added up.
        row = jnp.arange(side)[:, None]
        seen = (side - 1) - jnp.abs((side - 1) - jnp.abs(row + offset[None]))
        return jnp.zeros((side, side)).at[row, seen].add((weight / weight.sum())[None])

    return jnp.einsum("ih,jw,hwc->ijc", matrix(height), matrix(width), pixels)
