"""Which images a config asks for: its fields, as a data source that checks and opens itself."""

from maskaq_jax import data, schema
from maskaq_jax.config.fields import Config
from maskaq_jax.config.methods import METHODS
from maskaq_jax.data import class_order
from maskaq_jax.schema import ConfigError

# Those that ship with the package, and those of a user's own files.
_EMBEDDED: dict[str, type[data.Embedded | data.Scenes]] = {
    data.EMBEDDED: data.Embedded,
    data.SCENES: data.Scenes,
}
_OF_FILES = (data.FOLDER, data.COCO, data.ADE20K, data.LABEL_MAPS)


def evaluation_source(config: Config) -> data.DataSource | None:
    """The labelled images that are evaluated on; None where there are none.

    Raises:
      ConfigError: there is no such kind of dataset, or it does not read a field that is set.
    """
    fields = config.evaluation
    kind, scheme, name = fields.dataset.partition(data.TFDS_SCHEME)
    is_of_tfds = bool(not kind and scheme and name)
    is_folder = fields.dataset == data.FOLDER
    has_files = fields.dataset in _OF_FILES
    if not is_of_tfds:
        options = (*_EMBEDDED, *_OF_FILES, f"{data.TFDS_SCHEME}NAME", "")
        schema.choose("config.evaluation.dataset", fields.dataset, options)
    for field, is_read in (("path", has_files or is_of_tfds), ("labels", has_files)):
        if getattr(fields, field) and not is_read:
            raise ConfigError(
                f"config.evaluation.{field} is set, but config.evaluation.dataset "
                f"{fields.dataset!r} does not read it: set that to {data.FOLDER!r}, or to one of "
                f"{', '.join(_OF_FILES[1:])}"
            )
    if fields.order != class_order.DEFAULT and not is_folder:
        raise ConfigError(
            f"config.evaluation.order is {fields.order!r}, but config.evaluation.dataset "
            f"{fields.dataset!r} has no class folders: set that to {data.FOLDER!r}"
        )
    if is_of_tfds:
        return data.Tfds(name, fields.split, fields.path, fields.preprocessing)
    if is_folder:
        return data.Folder(fields.path, fields.labels, fields.preprocessing, fields.order)
    if fields.dataset == data.COCO:
        return data.Coco(fields.path, fields.labels, fields.preprocessing)
    if has_files:
        is_ade20k = fields.dataset == data.ADE20K
        return data.LabelMaps(fields.path, fields.labels, fields.preprocessing, is_ade20k)
    return _EMBEDDED[fields.dataset](fields.split) if fields.dataset else None


def real_images(config: Config) -> data.RealSource | None:
    """The images that the method 'real' trains on; None for the others."""
    if not METHODS[config.method].is_real:
        if config.samples.real:
            raise ConfigError(
                f"config.samples.real is set, but config.method {config.method!r} does not read "
                "it: set that to 'real'"
            )
        return None
    samples = config.samples
    if samples.real:
        preprocessing = config.evaluation.preprocessing
        return data.FolderReal(samples.real, samples.num_samples, config.pixels, preprocessing)
    is_scenes = config.evaluation.dataset == data.SCENES
    kind = data.ScenesReal if is_scenes else data.EmbeddedReal
    return kind(samples.num_samples, config.pixels)
