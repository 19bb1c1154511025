from pathlib import Path

from maskaq_jax.storage import paths


def test_embedded_weights_are_found_by_name():
    assert paths.weights_path("embedded:vit_fashion").is_file()
    assert str(paths.weights_path("some/where.safetensors")) == "some/where.safetensors"
    assert paths.weights_path("~/deit.pth") == Path.home() / "deit.pth"


def test_the_nearest_file_is_named_where_one_is_missing(tmp_path):
    (tmp_path / "deit_tiny.pth").touch()
    told = paths.missing_file(tmp_path / "deit_tyni.pth")
    assert told.endswith(f"deit_tyni.pth: did you mean {tmp_path}/deit_tiny.pth?")
    assert (
        paths.missing_file(tmp_path / "swin.safetensors") == f"no file {tmp_path}/swin.safetensors"
    )
    assert paths.missing_file(tmp_path).endswith("is a folder, not a file")
