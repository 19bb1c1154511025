"""A cost model of whole runs: their least time, and memory a device, for 1 to 256 chips.

    python -m benchmarks.scaling [deit_t swin_t ...]

Nothing is run: XLA tells of the compiled programs how many floating-point operations a step takes,
how many bytes it moves to and from memory and how many it holds; the lowered ones tell what their
all-reduces add up. Published rates of the chips make times of it. The programs are the CPU's, and
so is the memory, of which an accelerator's may hold less. Prints Markdown tables.
"""

import argparse
import dataclasses
import importlib
import math
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from maskaq_jax import config as config_lib
from maskaq_jax.config import Config
from maskaq_jax.devices import parallel
from maskaq_jax.finetuning.loop import FinetuningLoop
from maskaq_jax.finetuning.step import FinetuningSpec
from maskaq_jax.runs.plan import Plan, make_plan
from maskaq_jax.synthesis.loop import SynthesisLoop
from maskaq_jax.synthesis.step import SynthesisSpec

BACKBONES = ("vit_t", "deit_t", "deit_s", "deit_b", "vit_b", "swin_t", "dinov2_s")
CHIP_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Images of a device that keep it busy: where the paper's batch has fewer, synthesis takes more.
IMAGES_PER_DEVICE = 8


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published rates of a chip.

    Attributes:
      name: with the source of the figures.
      flops: a second, at the precision float32 matrix products take by default there.
      memory: bytes.
      bandwidth: bytes a second to and from its memory.
      link: bytes a second to other chips, in one direction.
      far_link: the same beyond `chips_near` chips.
      chips_near: chips that `link` joins.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    far_link: float
    chips_near: int


CHIPS = (
    Chip(
        "TPU v5e: bfloat16, Cloud TPU's system architecture",
        flops=197e12,
        memory=16e9,
        bandwidth=819e9,
        link=200e9,
        far_link=200e9,
        chips_near=256,
    ),
    Chip(
        "TPU v5p: bfloat16, Cloud TPU's system architecture",
        flops=459e12,
        memory=95e9,
        bandwidth=2765e9,
        link=600e9,
        far_link=600e9,
        chips_near=8960,
    ),
    Chip(
        "H100 SXM: TF32, NVIDIA's data sheet; NVLink in eights, 400 Gb/s InfiniBand beyond",
        flops=494e12,
        memory=80e9,
        bandwidth=3350e9,
        link=450e9,
        far_link=50e9,
        chips_near=8,
    ),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a step takes: a share for each image of the device, and one for the step itself.

    Attributes:
      flops: operations, (step, image).
      moved: bytes to and from memory, (step, image).
      held: bytes of memory, (step, image).
      reduced: bytes that the all-reduces of a step add up.
    """

    flops: tuple[float, float]
    moved: tuple[float, float]
    held: tuple[float, float]
    reduced: int

    def memory(self, num_images: int) -> float:
        """Bytes a device holds."""
        return _at(self.held, num_images)

    def seconds(self, num_images: int, num_chips: int, chip: Chip) -> float:
        """Least time of a step: arithmetic or memory, whichever is longer, and the all-reduces."""
        work = max(
            _at(self.flops, num_images) / chip.flops, _at(self.moved, num_images) / chip.bandwidth
        )
        link = chip.link if num_chips <= chip.chips_near else chip.far_link
        # A ring passes every byte around twice, less one chip's share.
        return work + 2 * (num_chips - 1) / num_chips * self.reduced / link


def main() -> None:
    """Prints the tables of the backbones asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbones", nargs="*", default=BACKBONES, help="names in configs/")
    jax.config.update("jax_num_cpu_devices", 2)
    for number, chip in enumerate(CHIPS, start=1):
        print(
            f"{number}. {chip.name}: {chip.flops / 1e12:.0f} TFLOP/s, {chip.memory / 1e9:.0f} GB "
            f"of memory, {chip.bandwidth / 1e9:.0f} GB/s from it, {chip.link / 1e9:.0f} GB/s to "
            "other chips"
        )
    for backbone in parser.parse_args().backbones:
        print_backbone(backbone)


def print_backbone(backbone: str) -> None:
    """Prints what a run of a config costs."""
    settings = config_lib.validated(
        importlib.import_module(f"configs.{backbone}").get_config("preset=paper")
    )
    model = config_lib.create_model(settings)
    synthesis_spec = SynthesisSpec(settings.synthesis, settings.pixels)
    finetuning_spec = FinetuningSpec(settings.finetuning, settings.pixels)
    synthesis_cost = measure(lambda mesh: SynthesisLoop(model, synthesis_spec, mesh))
    finetuning_cost = measure(
        lambda mesh: FinetuningLoop(model, finetuning_spec, 1, jax.random.key(0), mesh)
    )
    plan = make_plan(settings)
    image_steps = plan.num_syntheses * settings.samples.num_samples * settings.synthesis.num_steps
    print(
        f"\n### `configs/{backbone}.py`: {settings.model.name}\n\n"
        f"A step takes {_describe(synthesis_cost)} of synthesis, {_describe(finetuning_cost)} of "
        f"fine-tuning. A run has {image_steps / 1e6:.0f} million steps of an image in "
        f"{plan.num_syntheses} syntheses and {plan.num_steps / 1e3:.0f} thousand steps of "
        f"fine-tuning, {settings.finetuning.batch_size} images each.\n"
    )
    print(
        "| chips | synthesis batch | memory a device, on CPUs | "
        + " | ".join(
            f"hours on {chip.name.partition(':')[0]}: synthesis + fine-tuning" for chip in CHIPS
        )
        + " |\n|---"
        + "|---" * (2 + len(CHIPS))
        + "|"
    )
    for num_chips in CHIP_COUNTS:
        print_row(settings, plan, synthesis_cost, finetuning_cost, num_chips)


def print_row(
    settings: Config,
    plan: Plan,
    synthesis_cost: Cost,
    finetuning_cost: Cost,
    num_chips: int,
) -> None:
    """Prints memory and times of a run on that many chips."""
    samples = settings.samples
    batch_size = max(samples.batch_size, IMAGES_PER_DEVICE * num_chips)
    made = math.ceil(batch_size / num_chips)
    learnt = math.ceil(settings.finetuning.batch_size / num_chips)
    memory = max(synthesis_cost.memory(made), finetuning_cost.memory(learnt))
    larger = dataclasses.replace(samples, batch_size=batch_size)
    num_batches = make_plan(dataclasses.replace(settings, samples=larger)).num_batches
    synthesis_steps = plan.num_syntheses * num_batches * settings.synthesis.num_steps
    hours = [
        f"{synthesis_steps * synthesis_cost.seconds(made, num_chips, chip) / 3600:.2f} + "
        f"{plan.num_steps * finetuning_cost.seconds(learnt, num_chips, chip) / 3600:.2f}"
        for chip in CHIPS
    ]
    print(
        f"| {num_chips} | {batch_size} | {memory / 1e9:.2f} GB | " + " | ".join(hours) + " |",
        flush=True,
    )


def measure(build: Callable[[Mesh], SynthesisLoop | FinetuningLoop]) -> Cost:
    """The cost of a program, of what XLA says of batches of 1 and 2.

    Args:
      build: the loop of a mesh, whose program it is.
    """
    loop = build(parallel.make_mesh(jax.devices()[:1]))
    figures = []
    for size in (1, 2):
        compiled: Any = loop.program().lower(*loop.argument_shapes(size)).compile()
        cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
        held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        figures.append((cost["flops"], cost["bytes accessed"], held))
    flops, moved, held = (
        (2 * first - second, second - first) for first, second in zip(*figures, strict=True)
    )
    loop = build(parallel.make_mesh())
    lowered = loop.program().lower(*loop.argument_shapes(2)).as_text()
    return Cost(flops, moved, held, count_reduced_bytes(lowered))


def count_reduced_bytes(stablehlo: str) -> int:
    """Bytes that the all-reduces of a float32 program add up, each counted once."""
    # An all-reduce, the addition it carries, and then the types it takes and returns.
    reduced = re.findall(
        r'"stablehlo\.all_reduce".*?\n\s*}\) : \(tensor<([0-9x]*)[a-z]+\d+>', stablehlo, re.DOTALL
    )
    return sum(4 * math.prod(int(size) for size in shape.split("x") if size) for shape in reduced)


def _at(cost: tuple[float, float], num_images: int) -> float:
    step, image = cost
    return step + num_images * image


def _describe(cost: Cost) -> str:
    return (
        f"{cost.flops[1] / 1e9:.1f} GFLOP and {cost.moved[1] / 1e9:.2f} GB of memory traffic an "
        f"image, and {cost.reduced / 1e6:.2g} MB to all-reduce,"
    )


if __name__ == "__main__":
    main()
