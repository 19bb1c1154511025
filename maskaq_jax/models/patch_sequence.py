"""What models say of patches that stand in one sequence of tokens, the same in every block."""

import math
from collections.abc import Sequence

from jax import Array

from maskaq_jax import regions
from maskaq_jax.models import layers


class PatchSequence:
    """A ViT, or what stands on one: modules derive from it beside Flax's, and say their `patches`.

    Attributes:
      img_size: height and width of images, or the side of squares.
      patch_size, in_chans, embed_dim: as of a ViT.
    """

    img_size: int | tuple[int, int]
    patch_size: int
    in_chans: int
    embed_dim: int

    @property
    def patches(self) -> regions.PatchTokens:
        """Which tokens are patches, and what scores them."""
        raise NotImplementedError

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return *layers.image_size(self.img_size), self.in_chans

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens."""
        height, width = layers.image_size(self.img_size)
        return height // self.patch_size, width // self.patch_size

    @property
    def values_per_image(self) -> int:
        """Numbers in all patches of the first block."""
        return math.prod(self.patch_grid) * self.embed_dim

    def patch_scores(self, attention_logits: Sequence[Array]) -> Array:
        """[B, rows * columns] how informative each patch is, for a picture of it."""
        return regions.mean_scores(attention_logits, self.patches)

    def patch_regions(self, attention_logits: Sequence[Array], ratio: float) -> Array:
        """[B, rows * columns] 1 for the informative patches, for a picture of them."""
        return regions.informative_regions(attention_logits, ratio, self.patches)
