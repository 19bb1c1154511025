"""A report's contents that no run has made: of everything some, and as fast as can be."""

import numpy as np

from maskaq_jax.report.contents import (
    Answer,
    Contents,
    Entry,
    Layer,
    Looks,
    Sample,
    Sensitivity,
    Setting,
)
from maskaq_jax.sensitivity import TensorLoss

RESULTS = {
    "fp_top1": 91.16,
    "calibrated_top1": 68.5,
    "quantized_top1": 86.25,
    "weight_bits": 3,
    "activation_bits": 4,
    "rules": "",
    "method": "maskaq",
    "seed": 0,
    "num_samples": 320,
    "synthesis_steps": 100,
    "epochs": 4,
    "evaluation": "fashion_mnist test",
    "num_evaluated": 9990,
    "broken_images": 10,
    "redrawn_images": 0,
    "seconds": {"evaluation": 12.5, "synthesis": 80.0, "calibration": 0.0, "finetuning": 31.0},
    "device": "1 x cpu",
    "jax": "0.10.2",
    "kept": "trained",
    "retreats": 0,
    "distances": [
        {"step": 0, "distance": 0.66, "agreement": 70.0},
        {"step": 8, "distance": 0.31, "agreement": 88.0},
    ],
}
UNLABELLED = RESULTS | {
    "fp_top1": None,
    "calibrated_top1": None,
    "quantized_top1": None,
    "agreement": 93.75,
    "feature_cosine": 0.9876,
    "evaluation": "samples",
    "num_evaluated": 320,
    "broken_images": 0,
}
METRICS = [
    {"phase": "background", "step": 0, "black": 0.8, "white": 0.5},
    *({"phase": "synthesis", "step": i, "classes": 0.9 / (i + 1), "redraws": 0.0} for i in (0, 1)),
    *(
        {"phase": "finetuning", "step": i, "distillation": 2.0 / 10**i, "attention": 0.1 - 0.02 * i}
        for i in range(4)
    ),
]
_KINDS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def sample(number=0, size=28, grid=7):
    rng = np.random.default_rng(number)
    scores = rng.normal(size=(2, grid, grid)).astype(np.float32)
    return Sample(
        rng.integers(0, 256, (size, size, 3), np.uint8),
        scores[0] > np.median(scores[0]),
        scores[0],
        scores[0] + 0.5 * scores[1],
        Answer(number % 10, 0.9),
        Answer((number + number % 2) % 10, 0.6),
    )


def layers(num_blocks=4):
    names = [f"blocks_{block}.{kind}" for block in range(num_blocks) for kind in _KINDS]
    shares = np.array([0.01, 0.07, 0.2, 0.3, 0.25, 0.12, 0.04, 0.01])
    dense = [
        Layer(name, 3, None if name.startswith("patch") else 4, (0.01, 0.02, 0.05), shares, 0.3, 1)
        for name in ("patch_embed.proj", *names, "head")
    ]
    return [*dense, Layer("blocks_0.attn.query", None, 4, None, None, 0.01, 0.0)]


def contents(num_blocks=4, **changes):
    values = {
        "workdir": "runs/made_up",
        "version": "0.1.0",
        "finished": "2025-01-31 12:00 UTC",
        "model": "vit",
        "results": RESULTS,
        "metrics": METRICS,
        "refresh_epochs": [2],
        "preset": "best, of the embedded models",
        "settings": [
            Setting("seed", "0", None, False),
            Setting("finetuning.epochs", "4", "200", False),
            Setting("finetuning.learning_rate", "0.1", "0.0005", True),
        ],
        "looks": Looks(
            [sample(number) for number in range(3 * num_blocks)], 0.5, [0.98, 0.9, float("nan")]
        ),
        "layers": layers(num_blocks),
        "float_bytes": 828_456,
        "packed_bytes": 112_000,
        "sensitivity": Sensitivity(
            [
                TensorLoss("blocks_3.mlp.fc2", "activation", 4, 91.0, 0.21),
                TensorLoss("blocks_0.attn.qkv", "weight", 3, 97.0, 0.02),
            ],
            *(3, 4, 48),
            "blocks_3.mlp.fc2=3x8",
        ),
        "entries": [Entry("checkpoints", 9_600_000, 179), Entry("model.onnx", 150_000, 1)],
        "command": "python -m maskaq_jax.main --config=configs/vit_fashion.py:w=3,a=4",
        "notes": [],
    }
    return Contents(**values | changes)


def plain(**changes):
    """With hardly a chart, for what is said."""
    nothing = {"metrics": [], "looks": None, "layers": [], "sensitivity": None}
    return contents(**nothing | changes)
