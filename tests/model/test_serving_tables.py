"""Tables of a base that are read from its file, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

from continuonbrain.model.base_identity import BaseModelError  # noqa: E402
from continuonbrain.model.serving.tables import Table  # noqa: E402


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.bfloat16])
def test_rows_of_a_table_are_read_from_the_file(tmp_path: Path, kind: torch.dtype) -> None:
    from safetensors.torch import save_file as save_torch

    table = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).to(kind)
    save_torch({"other": torch.zeros(3), "table": table}, tmp_path / "t.safetensors")
    ids = np.array([3, 49, 0, 3])
    found = Table(tmp_path / "t.safetensors", "table", scale=3.0).rows(ids)
    assert np.array_equal(found, table[ids].float().numpy() * np.float32(3.0))
    with pytest.raises(BaseModelError, match="lacking"):
        Table(tmp_path / "t.safetensors", "lacking", scale=1.0)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "t.safetensors").read_bytes()[:-20])
    with pytest.raises(BaseModelError, match=r"cut\.safetensors"):
        Table(tmp_path / "cut.safetensors", "table", scale=1.0)
