"""Sums and means over the global batch: the images of every device, padding left out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GlobalBatch:
    """The batch that a device's images are rows of.

    What its methods return is the same on every device. A function of a device's images that takes
    one, and reduces by it alone, gives the numbers of one device however many there are:

        def per_device(images: Array) -> Array:
            return losses.total_variation_loss(images, over=GlobalBatch("data"))

    Attributes:
      axis_name: mapped axis that the devices lie on; None where there is this device alone.
      valid: [B] bool, false where an image of this device is padding; None where none is.
    """

    axis_name: str | None = dataclasses.field(default=None, metadata={"static": True})
    valid: Array | None = None

    def mean(self, x: Array) -> Array:
        """[] mean of all values of [B, ...], or of [B * windows, ...] as `total` takes them."""
        if self.valid is None:
            return self.mean_over_devices(x.mean())
        return self.total(x) / self.total(jnp.ones_like(x))

    def total(self, x: Array) -> Array:
        """[] sum of all values of [B, ...].

        Or of [B * windows, ...] with an image's windows in a row.
        """
        if self.valid is not None:
            by_image = x.reshape(len(self.valid), -1)
            x = jnp.where(self.valid[:, None], by_image, 0.0)
        return self.sum_over_devices(x.sum())

    def norm(self, x: Array) -> Array:
        """[] Frobenius norm `sqrt(sum x^2)` of all of [B, ...], with slope 0 where it is 0."""
        return safe_sqrt(self.total(jnp.square(x)))

    def count(self, num_images: int) -> Array:
        """[] float32 images of the batch; of this device `num_images`, padding included."""
        return self.total(jnp.ones(num_images))

    def sum_over_devices(self, tree: Any) -> Any:
        """A tree of arrays, summed over the devices."""
        return tree if self.axis_name is None else jax.lax.psum(tree, self.axis_name)

    def gather_over_devices(self, tree: Any) -> Any:
        """A tree of [B, ...] arrays, those of all devices in the order of the global batch."""
        if self.axis_name is None:
            return tree
        return jax.lax.all_gather(tree, self.axis_name, tiled=True)

    def mean_over_devices(self, tree: Any) -> Any:
        """A tree of arrays, averaged over the devices."""
        return tree if self.axis_name is None else jax.lax.pmean(tree, self.axis_name)

    def min_over_devices(self, tree: Any) -> Any:
        """A tree of arrays, the smallest value of each entry on any of the devices."""
        return tree if self.axis_name is None else jax.lax.pmin(tree, self.axis_name)


# One device, all of whose images count.
LOCAL = GlobalBatch()


def safe_sqrt(x: Array) -> Array:
    """Square root of [...] with slope 0 at 0, where that of `jnp.sqrt` is infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
