import flax.traverse_util
import pytest

from maskaq_jax.config import Config
from maskaq_jax.export import layers, onnx
from tests.export import networks


@pytest.mark.parametrize(
    ("name", "w", "a", "keeps_grids", "num_products", "num_codes"),
    [
        ("clip", 8, 8, False, 8 + 1, 8 + 1),
        # Of the learned query the product is a constant of the file, its codes are not.
        pytest.param("siglip", 3, 3, True, 8 + 7 + 1, 8 + 8 + 1, marks=pytest.mark.slow),
        *[
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                ("swin", 4, 4, False, 3 * 8 + 2, 3 * 8 + 2),
                ("yolos", 4, 8, False, 2 * 8 + 2 * 3, 2 * 8 + 2 * 3),
                # A convolution is three products, and a mean over bins two.
                ("upernet", 4, 8, False, 3 * 8 + 7 + 4 * 2 + 3 * 3, 3 * 8 + 7 + 3),
            )
        ],
    ],
)
def test_every_product_of_the_file_is_that_of_integers_in_jax(
    name, w, a, keeps_grids, num_products, num_codes
):
    model, variables, images, _ = networks.problem(name, w, a, keeps_grids)
    found = layers.compare_layers(model, variables, Config(), images[:4])
    products = {layer.name: layer.largest for layer in found if layer.kind == "product"}
    codes = [layer for layer in found if layer.kind == "codes"]
    assert (len(products), len(codes)) == (num_products, num_codes)
    assert max(products.values()) < 1e-6
    for layer in codes:
        assert layer.same > 0.999
        assert layer.largest <= 1
        assert layer.from_tie < 1e-4


def test_a_layer_that_differs_is_told(monkeypatch):
    """Codes of a file that has another step differ in their layer, and in no other."""
    model, variables, images, _ = networks.problem("clip", 8, 8, False)
    build = onnx.build

    def build_with_another_step(model, variables, *arguments, **options):
        flat = flax.traverse_util.flatten_dict(variables["quant"])
        name = ("blocks_0", "attn", "key")
        flat[name] = flat[name].replace(step=1.5 * flat[name].step)
        hurt = variables | {"quant": flax.traverse_util.unflatten_dict(flat)}
        return build(model, hurt, *arguments, **options)

    monkeypatch.setattr(onnx, "build", build_with_another_step)
    found = layers.compare_layers(model, variables, Config(), images[:2])
    wrong = {layer.name for layer in found if layer.kind == "codes" and layer.same < 0.9}
    # Probabilities are of logits that JAX computes by the other step.
    assert wrong <= {"blocks_0/attn/key", "blocks_0/attn/probabilities"}
    assert "blocks_0/attn/key" in wrong
