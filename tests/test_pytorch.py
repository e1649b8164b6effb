"""The Python of docs/pytorch.md runs, where torch can be imported."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_documented_way_there_and_back(tmp_path, monkeypatch):
    try:
        import safetensors.torch  # noqa: F401
        import torch
    except (ImportError, OSError) as error:
        pytest.skip(f"torch cannot be imported: {error}")
    there, back = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pytorch.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    variables = {}
    exec(there, variables)
    saved = safetensors.torch.load_file("from_pytorch.safetensors")
    assert set(saved) == {f"{layer}.{kind}" for layer in (1, 3, 5) for kind in ("weight", "bias")}
    # What stemm writes for this model: tests/pytorch.rs, what_is_written_is_what_was_read.
    shutil.copy(ROOT / "tests" / "pytorch" / "mlp.safetensors", "from_stemm.safetensors")
    exec(back, variables)
    expected = safetensors.torch.load_file(ROOT / "tests" / "pytorch" / "mlp_logits.safetensors")
    logits = variables["model"](expected["x"])
    assert torch.allclose(logits, expected["logits"], atol=1e-5)
