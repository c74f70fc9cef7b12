import json
from pathlib import Path

import pytest

from hf_minibert.files import write_json, write_text


def test_text_and_json_are_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1.5, "text": "größer"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"loss": 1.5, "text": "größer"}
    assert "größer" in path.read_text(encoding="utf-8"), "readable by people"
    with pytest.raises(TypeError):
        write_json(path, {"loss": object()})

    def fail(*_) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_text(path, "other")
    assert json.loads(path.read_text(encoding="utf-8"))["loss"] == 1.5
    assert list(tmp_path.iterdir()) == [path]
