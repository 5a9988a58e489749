"""What the columns of our LeRobot datasets are, and the Parquet schemas that say so. `lerobot.py` has the source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from continuonbrain.errors import installing
from continuonbrain.rlds.errors import EpisodeError

CAMERA: Final = "observation.images.front"

# name -> (dtype, names of the components, or None for one value)
FEATURES: Final[dict[str, tuple[str, list[str] | None]]] = {
    "observation.state": ("float32", ["speed_mps", "yaw_rate_rps"]),
    "action": ("float32", ["steering", "throttle"]),
    "proposed_action": ("float32", ["steering", "throttle"]),
    "has_proposed_action": ("bool", None),
    "state_measured": ("bool", ["speed_mps", "yaw_rate_rps"]),
    "source": ("string", None),
    "safety_violations": ("string", None),
    "adapter_sha256": ("string", None),
    "dropped_before": ("int64", None),
    "monotonic_ns": ("int64", None),
    "is_terminal": ("bool", None),
    # LeRobot's own, which every dataset has.
    "timestamp": ("float32", None),
    "frame_index": ("int64", None),
    "episode_index": ("int64", None),
    "index": ("int64", None),
    "task_index": ("int64", None),
}


def features_json(height: int, width: int) -> dict[str, Any]:
    """`features` of `info.json`."""
    out: dict[str, Any] = {
        CAMERA: {"dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    }
    for name, (dtype, names) in FEATURES.items():
        out[name] = {"dtype": dtype, "shape": [len(names) if names else 1], "names": names}
    return out


def load_pyarrow() -> Any:
    """pyarrow with its Parquet part. Raises EpisodeError with what to install."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise EpisodeError(
            "a LeRobot dataset needs the Python module pyarrow, which is not installed",
            remedy=installing("lerobot"),
        ) from error
    return pyarrow


def data_schema(pa: Any) -> Any:
    """The Arrow schema of the data files: the camera, then `FEATURES`."""
    types = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
    fields = [pa.field(CAMERA, pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    features: dict[str, Any] = {CAMERA: {"_type": "Image"}}
    for name, (dtype, names) in FEATURES.items():
        value = {"dtype": dtype, "_type": "Value"}
        if names:
            fields.append(pa.field(name, pa.list_(types[dtype], len(names))))
            features[name] = {"feature": value, "length": len(names), "_type": "Sequence"}
        else:
            fields.append(pa.field(name, types[dtype]))
            features[name] = value
    # Hugging Face's `datasets` reads the types from here when nobody tells them, as its dataset viewer does.
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def write_tasks(pa: Any, path: Path, tasks: dict[str, int]) -> None:
    """Write `tasks.parquet`: instruction -> task_index."""

    # LeRobot looks tasks up in a pandas table whose index is the text; this is how pandas finds its index again.
    def column(name: str, kind: str, stored: str) -> dict[str, Any]:
        return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(pandas)}
    )
    table = pa.Table.from_pydict({"task_index": list(tasks.values()), "task": list(tasks)}, schema=schema)
    pa.parquet.write_table(table, path, compression="snappy")
