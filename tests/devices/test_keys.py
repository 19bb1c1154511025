import ast
from pathlib import Path

import jax
import numpy as np
import pytest

import maskaq_jax
from maskaq_jax.devices.keys import image_keys, named_key

KEY = jax.random.key(0)


def _bits(keys):
    return np.asarray(jax.random.key_data(keys))


def _purposes():
    """Every purpose a module names."""
    for path in Path(maskaq_jax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("named_key"):
                yield ast.literal_eval(node.args[1])


def test_every_purpose_has_its_own_key():
    purposes = set(_purposes())
    assert {"view", "label", "noise", "drop", "order"} <= purposes
    keys = {_bits(named_key(KEY, purpose)).tobytes() for purpose in purposes}
    assert len(keys) == len(purposes)


def test_purposes_name_the_same_key_in_every_process():
    # Python's own hash of a string changes from one process to the next.
    expected = jax.random.fold_in(KEY, 0xFEFDAB8E)
    np.testing.assert_array_equal(_bits(named_key(KEY, "view")), _bits(expected))


def test_keys_of_an_image_depend_on_its_number_alone():
    few, many = np.array([5, 2]), np.arange(8)
    np.testing.assert_array_equal(
        _bits(image_keys(KEY, few, 3)), _bits(image_keys(KEY, many, 3))[few]
    )


def test_every_image_and_step_has_its_own_key():
    keys = [_bits(image_keys(KEY, np.arange(10), step)) for step in range(10)]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 100


@pytest.mark.parametrize("step", [0, 7])
def test_keys_are_the_same_inside_a_compiled_loop(step):
    indices = np.arange(4)
    compiled = jax.jit(image_keys)(KEY, indices, step)
    np.testing.assert_array_equal(_bits(compiled), _bits(image_keys(KEY, indices, step)))
    folded = jax.random.fold_in(jax.random.fold_in(KEY, step), 2)
    np.testing.assert_array_equal(_bits(compiled[2]), _bits(folded))


def test_draws_of_neighbouring_images_are_independent():
    keys = image_keys(named_key(KEY, "noise"), np.arange(64))
    draws = jax.vmap(lambda key: jax.random.normal(key, (256,)))(keys)
    correlation = np.corrcoef(draws) - np.eye(64)
    assert np.abs(correlation).max() < 5 / np.sqrt(256)
