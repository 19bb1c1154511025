"""The Fashion-MNIST images that ship with the package."""

import dataclasses

import numpy as np

from maskaq_jax import schema
from maskaq_jax.data.dataset import Dataset, check_task
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Model
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import notes, paths
from maskaq_jax.storage.notes import Tell

EMBEDDED = "fashion_mnist"
_SIZE = (28, 28)
_NUM_CLASSES = 10
# Of evaluation; "real" has images for the method of that name, which the teachers were trained on.
_SPLITS = ("test", "validation")


def load_embedded(split: str, num_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the embedded Fashion-MNIST images, the grey value on every channel.

        >>> images, labels = load_embedded("validation", num_channels=3)
        >>> images.shape[1:], images.dtype.name, labels[:3]
        ((28, 28, 3), 'uint8', array([0, 8, 0], dtype=int32))

    Args:
      split: 'test', 'validation' (kept out of the teacher's training) or 'real' (trained on).
      num_channels: channels the model takes.

    Returns:
      images: [N, 28, 28, num_channels] uint8.
      labels: [N] int32.
    """
    with np.load(paths.asset_path(f"fashion_{split}.npz"), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    images = np.repeat(images[..., None], num_channels, axis=-1)
    return images, labels.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Images to evaluate on.

    Attributes:
      split: 'test', or 'validation' to choose settings on.
    """

    split: str

    @property
    def name(self) -> str:
        """What `results.json` calls it."""
        return f"{EMBEDDED} {self.split}"

    def check(self, model: Model) -> None:
        """Raises `ConfigError` unless there are such images, and the model takes them."""
        schema.choose("config.evaluation.split", self.split, _SPLITS)
        check_task(
            f"config.evaluation.dataset {EMBEDDED!r}", "labelled images", model, "classification"
        )
        height, width, _ = model.input_shape
        if (height, width) != _SIZE or model.num_classes not in (0, _NUM_CLASSES):
            raise ConfigError(
                f"config.evaluation.dataset {EMBEDDED!r} has images of 28 x 28 pixels and 10 "
                f"classes; the model takes {height} x {width} and has {model.num_classes}"
            )

    def open(self, model: Model, tell: Tell = notes.log) -> Dataset:
        """Reads them all, which are small."""
        del tell
        return list(zip(*load_embedded(self.split, model.input_shape[-1]), strict=True))


@dataclasses.dataclass(frozen=True)
class EmbeddedReal:
    """Images that the embedded teachers were trained on: the samples of the method 'real'.

    Attributes:
      num_samples: how many of them.
      pixels: their normalisation.
    """

    num_samples: int
    pixels: Pixels

    def check(self, model: Model) -> None:
        """Raises `ConfigError` unless the model takes them."""
        height, width, _ = model.input_shape
        if (height, width) != _SIZE:
            raise ConfigError(
                "config.method 'real' trains on the embedded images of 28 x 28 pixels, but the "
                f"model takes {height} x {width}: name a folder of images by config.samples.real"
            )

    def read(self, model: Model, tell: Tell = notes.log) -> np.ndarray:
        """Reads them, [num_samples, 28, 28, channels] float32, normalised.

        Raises:
          ConfigError: there are fewer.
        """
        del tell  # nothing is passed over
        images, _ = load_embedded("real", model.input_shape[-1])
        if self.num_samples > len(images):
            raise ConfigError(
                f"config.samples.num_samples is {self.num_samples}, but only {len(images)} real "
                "images ship with the package"
            )
        return self.pixels.from_bytes(images[: self.num_samples])
