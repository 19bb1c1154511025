"""The embedded experiment."""

from ml_collections import ConfigDict

from maskaq_jax import config as config_lib


def get_config(argument: str | None = None) -> ConfigDict:
    arguments = config_lib.parse_arguments(
        argument, w=3, a=3, method="maskaq", seed=0, split="test"
    )
    config = config_lib.default()
    config.seed = arguments.seed
    config.method = arguments.method
    config.model.name = "vit"
    config.model.num_classes = 10
    config.model.arguments = ConfigDict(
        {"img_size": 28, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}
    )
    config.model.weights = "embedded:vit_fashion"
    config.pixels.mean = (0.286,) * 3
    config.pixels.std = (0.353,) * 3
    config.pixels.grey = True
    config.quantization.weight_bits = arguments.w
    config.quantization.activation_bits = arguments.a
    config.evaluation.split = arguments.split
    config.samples.num_samples = 256
    config.samples.batch_size = 128
    config.samples.refresh_every = 0
    config.samples.calibration_size = 256
    config.synthesis.num_steps = 100
    config.synthesis.view.brightness = 0.0
    config.synthesis.view.colour = 0.0
    config.finetuning.epochs = 10
    config.finetuning.batch_size = 32
    return config
