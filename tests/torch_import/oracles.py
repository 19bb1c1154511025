"""Detectors and segmenters of transformers with random weights: what ours are compared with.

Needs PyTorch. What transformers has no model of, a linear head on DINOv2 and a pyramid on a Swin,
is written out here; the pyramid's weights are under mmdetection's names, and its backbone's merging
of patches is checked against `Unfold`, whose order they are in.
"""

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional

# Of each model: arguments of ours, and those of transformers for the same.
YOLOS = {"img_size": [20, 24], "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
YOLOS |= {"num_classes": 3, "num_detection_tokens": 5, "mid_position_embeddings": True}
SWIN = {"img_size": [26, 33], "patch_size": 2, "embed_dim": 8, "depths": [1, 2, 1]}
SWIN |= {"num_heads": [2, 2, 4], "window_size": 4}
UPERNET = SWIN | {"num_classes": 3, "hidden_size": 12}
FPN = SWIN | {"num_classes": 0, "out_channels": 12}
LINEAR_SEG = {"img_size": 20, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
LINEAR_SEG |= {"num_classes": 3}


def shake(model, seed=0):
    """Random weights, and random means and variances of batch norms."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor):
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * noise(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.3 * noise(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(torch.exp(0.3 * noise(buffer)))
    return model.eval()


def yolos(arguments):
    """transformers' model of our arguments."""
    config = transformers.YolosConfig(
        hidden_size=arguments["embed_dim"],
        num_hidden_layers=arguments["depth"],
        num_attention_heads=arguments["num_heads"],
        intermediate_size=4 * arguments["embed_dim"],
        image_size=list(arguments["img_size"]),
        patch_size=arguments["patch_size"],
        num_detection_tokens=arguments["num_detection_tokens"],
        use_mid_position_embeddings=arguments["mid_position_embeddings"],
        num_labels=arguments["num_classes"],
    )
    return shake(transformers.YolosForObjectDetection(config))


def swin_config(arguments):
    """Of a backbone, all of whose stages give a map."""
    stages = [f"stage{i + 1}" for i in range(len(arguments["depths"]))]
    return transformers.SwinConfig(
        image_size=224,  # which no weight depends on
        patch_size=arguments["patch_size"],
        embed_dim=arguments["embed_dim"],
        depths=list(arguments["depths"]),
        num_heads=list(arguments["num_heads"]),
        window_size=arguments["window_size"],
        out_features=stages,
    )


def upernet(arguments):
    """transformers' model of our arguments."""
    config = transformers.UperNetConfig(
        backbone_config=swin_config(arguments),
        hidden_size=arguments["hidden_size"],
        num_labels=arguments["num_classes"],
        auxiliary_in_channels=arguments["embed_dim"] * 4,
        auxiliary_channels=8,
    )
    return shake(transformers.UperNetForSemanticSegmentation(config))


class LinearSegmenter(nn.Module):
    """A batch norm and a 1 x 1 convolution on the normed patches of a DINOv2."""

    def __init__(self, arguments):
        super().__init__()
        config = transformers.Dinov2Config(
            hidden_size=arguments["embed_dim"],
            num_hidden_layers=arguments["depth"],
            num_attention_heads=arguments["num_heads"],
            image_size=arguments["img_size"],
            patch_size=arguments["patch_size"],
        )
        self.backbone = transformers.Dinov2Model(config)
        self.bn = nn.BatchNorm2d(arguments["embed_dim"])
        self.conv_seg = nn.Conv2d(arguments["embed_dim"], arguments["num_classes"], 1)

    def forward(self, images):
        tokens = self.backbone(images).last_hidden_state[:, 1:]
        side = round(tokens.shape[1] ** 0.5)
        features = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
        logits = self.conv_seg(self.bn(features))
        size = images.shape[2:]
        return functional.interpolate(logits, size, mode="bilinear", align_corners=False)

    def state(self):
        """As the authors' two files have them: the backbone's, and the head's."""
        backbone = to_numpy(self.backbone.state_dict())
        head = {
            f"decode_head.{name}": array
            for name, array in to_numpy(self.state_dict()).items()
            if not name.startswith("backbone.")
        }
        return backbone, head


def linear_segmenter(arguments):
    """The model of our arguments."""
    return shake(LinearSegmenter(arguments))


class Pyramid(nn.Module):
    """A Swin of transformers and a feature pyramid as mmdetection has it."""

    def __init__(self, arguments):
        super().__init__()
        self.backbone = transformers.SwinBackbone(swin_config(arguments))
        channels = [arguments["embed_dim"] * 2**i for i in range(len(arguments["depths"]))]
        out = arguments["out_channels"]
        self.lateral_convs = nn.ModuleList(nn.Conv2d(size, out, 1) for size in channels)
        self.fpn_convs = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1) for _ in channels)

    def forward(self, images):
        maps = self.backbone(images).feature_maps
        laterals = [conv(each) for conv, each in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            size = laterals[i - 1].shape[2:]
            laterals[i - 1] = laterals[i - 1] + functional.interpolate(laterals[i], size)
        levels = [conv(each) for conv, each in zip(self.fpn_convs, laterals, strict=True)]
        return maps, [*levels, functional.max_pool2d(levels[-1], 1, stride=2)]

    def state(self):
        """Under mmdetection's names, merging in the order of `Unfold`."""
        state = {}
        for name, array in to_numpy(self.backbone.state_dict()).items():
            if not name.startswith("swin.layernorm."):  # which nothing reads
                state[f"backbone.{_of_mmdetection(name)}"] = array
        for name in [name for name in state if name.endswith("attn.w_msa.query.weight")]:
            for leaf in ("weight", "bias"):
                parts = [name.replace("query.weight", f"{part}.{leaf}") for part in _PARTS]
                joint = np.concatenate([state.pop(part) for part in parts])
                state[name.replace("query.weight", f"qkv.{leaf}")] = joint
        for i, stage in enumerate(self.backbone.swin.encoder.layers):
            if stage.downsample is not None:
                path = f"backbone.stages.{i}.downsample"
                state |= {f"{path}.{name}": a for name, a in _unfolded(stage.downsample).items()}
        for kind in ("lateral_convs", "fpn_convs"):
            for name, array in to_numpy(getattr(self, kind).state_dict()).items():
                number, leaf = name.split(".")
                state[f"neck.{kind}.{number}.conv.{leaf}"] = array
        return state


_PARTS = ("query", "key", "value")


def pyramid(arguments):
    """The model of our arguments."""
    return shake(Pyramid(arguments))


def _of_mmdetection(name):
    """mmdetection's name of a parameter of transformers' backbone."""
    for theirs, ours in (
        ("swin.embeddings.patch_embeddings.", "patch_embed."),
        ("swin.embeddings.norm.", "patch_embed.norm."),
        ("swin.encoder.layers.", "stages."),
        ("attention.relative_position_bias.", "attn.w_msa."),
        *((f"attention.{part[0]}_proj.", f"attn.w_msa.{part}.") for part in _PARTS),
        ("attention.o_proj.", "attn.w_msa.proj."),
        ("layernorm_before.", "norm1."),
        ("layernorm_after.", "norm2."),
        ("mlp.fc1.", "ffn.layers.0.0."),
        ("mlp.fc2.", "ffn.layers.1."),
        *((f"hidden_states_norms.stage{i + 1}.", f"norm{i}.") for i in range(4)),
    ):
        name = name.replace(theirs, ours)
    return name


def _unfolded(merging):
    """Weights of a merging of patches in the order that `Unfold` gives its neighbours in."""
    norm, reduction = merging.norm, merging.reduction
    channels = len(norm.weight) // 4
    place = torch.arange(4 * channels)
    channel, neighbour = place // 4, place % 4
    row, column = neighbour // 2, neighbour % 2
    order = (2 * column + row) * channels + channel
    weights = {
        "norm.weight": norm.weight[order],
        "norm.bias": norm.bias[order],
        "reduction.weight": reduction.weight[:, order],
    }
    with torch.no_grad():
        x = torch.randn(1, 6, 4, channels)
        rows = functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
        normed = functional.layer_norm(
            rows, rows.shape[-1:], weights["norm.weight"], weights["norm.bias"], norm.eps
        )
        merged = functional.linear(normed, weights["reduction.weight"])
        torch.testing.assert_close(merged, merging(x.reshape(1, 24, channels), (6, 4)))
    return to_numpy(weights)


def to_numpy(state):
    """Arrays of a state dict that are trained, or counted by a batch norm."""
    return {
        name: tensor.detach().numpy().copy()
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def images(size, count=2, seed=1):
    """[count, *size, 3] float32."""
    shape = (count, *((size, size) if isinstance(size, int) else size), 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(model, pixels):
    """What a model makes of [B, height, width, 3]."""
    with torch.no_grad():
        return model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))


def as_maps(tensors):
    """[B, C, rows, columns] each -> [B, rows, columns, C]."""
    return [tensor.permute(0, 2, 3, 1).numpy() for tensor in tensors]
