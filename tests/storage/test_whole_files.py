import json

import pytest

from maskaq_jax.storage import whole_files


def test_json_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    whole_files.write_json(path, {"top1": 90.0})
    with pytest.raises(TypeError):
        whole_files.write_json(path, {"top1": object()})
    assert json.loads(path.read_text()) == {"top1": 90.0}
    assert [other.name for other in tmp_path.iterdir()] == ["results.json"]
