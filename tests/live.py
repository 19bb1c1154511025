"""PyTorch's libraries of models, which tests compare with where they are installed."""

import sys
import types
import warnings

import pytest


def import_or_skip(name):
    """Imports timm, torchvision or transformers, or skips.

    PyTorch's builds without CUDA and torchvision's with it don't meet: torchvision describes
    operators that its library then lacks, and that nobody here calls.
    """
    pytest.importorskip("torch", reason="needs the torch extra", exc_type=ImportError)
    described = "torchvision._meta_registrations"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision  # noqa: F401
        except ImportError:
            pass
        except RuntimeError:
            sys.modules[described] = types.ModuleType(described)
        return pytest.importorskip(name, reason="needs the torch extra", exc_type=ImportError)
