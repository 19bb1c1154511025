"""What the rest of the package asks of a model, whatever its family."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self, runtime_checkable

from jax import Array

from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.sites import Part, Site
from maskaq_jax.regions import PatchTokens

# What the outputs of `apply` are:
#   classification: [B, num_classes] logits or, where there are no classes, pooled features
#   detection: {"logits": [B, tokens, num_classes + 1], the last for no object,
#     "pred_boxes": [B, tokens, 4]}, centre, width and height as shares of the image, x before y
#   segmentation: [B, height, width, num_classes] logits of every pixel
#   features: a tuple of maps [B, rows, columns, C], the largest first
Task = Literal["classification", "detection", "segmentation", "features"]


@runtime_checkable
class Model(Protocol):
    """A Flax module that serves as P and, with a quantization, as Q on the same `params`.

    It is hashable, so it may be static in a compiled function. Nobody needs to know its family: it
    says itself what its inputs are, and which of its tokens are patches.
    """

    def __hash__(self) -> int:
        """Of its fields, as dataclasses have it."""

    @property
    def num_classes(self) -> int:
        """Classes told apart, that of no object not counted; 0 where outputs are features."""

    @property
    def quantization(self) -> Quantization | None:
        """Bits of the low-bit model; None in full precision."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""

    @property
    def task(self) -> Task:
        """What the outputs are for."""

    @property
    def patches(self) -> PatchTokens:
        """Which of a layer's tokens are patches, what scores them, whether layers share them."""

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of `patch_scores` and `patch_regions`."""

    @property
    def values_per_image(self) -> int:
        """Numbers in all patches of the first block: what an image's work grows with."""

    def patch_scores(self, attention_logits: Sequence[Array]) -> Array:
        """How informative the model finds each patch, for a picture of it.

        Args:
          attention_logits: of all layers, as in `apply`'s `out`.

        Returns:
          [B, rows * columns] float32 of `patch_grid`.
        """

    def patch_regions(self, attention_logits: Sequence[Array], ratio: float) -> Array:
        """Marks P's informative patches, for a picture of them.

        Args:
          attention_logits: of all layers, as in `apply`'s `out`.
          ratio: share of patches to mark.

        Returns:
          [B, rows * columns] float32 of 0 and 1, of `patch_grid`.
        """

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """`init(key, images)`: random variables."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """`apply(variables, images)`: the outputs of [B, *input_shape] float images, and `out`.

        `out` names what the losses read. Tuples of an array a layer: `attention_logits`
        [B, H, N, N] before softmax, `attention_outputs` [B, H, N, d], `block_outputs` [B, N, C];
        B counts windows in the first two, where there are some, and N their padding, which
        `patches` tells of. And `features` [B, C], pooled. Models with maps have `feature_maps`,
        a tuple of [B, rows, columns, C], and a neck's `pyramid_maps`.
        """

    def parts(self) -> tuple[Part, ...]:
        """What lies between `embed` and `classify`, in order; `calibration.fit` goes along it.

        `apply(variables, images, method="embed")` gives the tokens before the first part, and
        `apply(variables, tokens, method="classify")` what `apply` itself returns of those behind
        the last, but for what the parts add to `out`. Where parts say that they are read,
        `classify` takes a tuple of the tokens behind each of these instead.
        """

    def head_sites(self) -> tuple[Site, ...]:
        """What `classify` rounds."""

    def clone(self, **changes: Any) -> Self:
        """The model with other fields, such as `quantization`."""
