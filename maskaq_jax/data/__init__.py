"""Images to evaluate on and to train with.

A `DataSource` says where labelled images are, whatever kind of place that is: it has a `name`;
`check(model)` raises `ConfigError`, naming the field, where the model can't be evaluated on it; and
`open(model, tell)` gives a `Dataset`, and tells what it passes over.
"""

from maskaq_jax.data.batches import LabelledBatch, ReadImages, read_batches, sample_batches
from maskaq_jax.data.boxes import BoxDataset, Boxes
from maskaq_jax.data.coco import COCO, Coco
from maskaq_jax.data.dataset import (
    UNKNOWN_LABEL,
    Dataset,
    Example,
    NamedClasses,
    check_readable,
    label_shape,
)
from maskaq_jax.data.embedded import EMBEDDED, Embedded, EmbeddedReal, load_embedded
from maskaq_jax.data.fingerprint import fingerprint
from maskaq_jax.data.folder import FOLDER, Folder, FolderReal
from maskaq_jax.data.label_maps import ADE20K, LABEL_MAPS, LabelMaps
from maskaq_jax.data.scenes import SCENES, Scenes, ScenesReal
from maskaq_jax.data.tfds import TFDS_SCHEME, Tfds

DataSource = Embedded | Folder | Tfds | Scenes | Coco | LabelMaps
RealSource = EmbeddedReal | FolderReal | ScenesReal

__all__ = [
    "ADE20K",
    "COCO",
    "EMBEDDED",
    "FOLDER",
    "LABEL_MAPS",
    "SCENES",
    "TFDS_SCHEME",
    "UNKNOWN_LABEL",
    "BoxDataset",
    "Boxes",
    "Coco",
    "DataSource",
    "Dataset",
    "Embedded",
    "EmbeddedReal",
    "Example",
    "Folder",
    "FolderReal",
    "LabelMaps",
    "LabelledBatch",
    "NamedClasses",
    "ReadImages",
    "RealSource",
    "Scenes",
    "ScenesReal",
    "Tfds",
    "check_readable",
    "fingerprint",
    "label_shape",
    "load_embedded",
    "read_batches",
    "sample_batches",
]
