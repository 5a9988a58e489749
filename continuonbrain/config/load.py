"""`config.json` and presets, read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from continuonbrain.config.brain import BrainConfig, validate_config
from continuonbrain.config.error import ConfigError
from continuonbrain.configs import preset_bytes
from continuonbrain.errors import belongs_to_another


def load_config(path: Path) -> BrainConfig:
    """Read and check a `config.json`.

    Raises:
        ConfigError: missing or unreadable file, invalid JSON (with line and column), unknown key, wrong
            kind of value, value out of range.
        BelongsToAnotherError: it is closed to this user.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            source=str(path),
            problem="there is no such file",
            remedy="create a brain root with: continuonbrain init --root DIR",
        ) from error
    except OSError as error:
        if isinstance(error, PermissionError) and (another := belongs_to_another(path)) is not None:
            raise another from error
        raise ConfigError(
            source=str(path), problem=f"cannot be read: {error.strerror}", remedy="check its permissions"
        ) from error
    return parse_config(raw, source=str(path))


def load_preset(name: str) -> BrainConfig:
    """The settings of a preset that ships with the package.

    Raises:
        UnknownPresetError: no preset has this name.
    """
    return parse_config(preset_bytes(name), source=f"preset {name}")


def edited_config(path: Path, changes: Mapping[str, object]) -> dict[str, Any]:
    """What a `config.json` holds with these dotted keys set, in its own order; nothing that it leaves out is filled in.

    Example: `edited_config(path, {"donkey.calibrated": True})`. The file is only read.

    Raises:
        ConfigError: the file cannot be read, or the whole would not be valid.
    """
    load_config(path)
    data: dict[str, Any] = json.loads(path.read_bytes())
    for dotted, value in changes.items():
        *groups, leaf = dotted.split(".")
        target = data
        for group in groups:
            target = target.setdefault(group, {})
        target[leaf] = value
    validate_config(data, source=str(path))
    return data


def parse_config(raw: bytes, *, source: str) -> BrainConfig:
    """Check the JSON text of a config. `source` names it in errors. Raises ConfigError."""

    def refuse_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
        seen: dict[str, object] = {}
        for key, value in pairs:
            if key in seen:
                raise ConfigError(source=source, key=key, problem="is given twice", remedy="keep one of them")
            seen[key] = value
        return seen

    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=refuse_repeated_keys)
    except UnicodeDecodeError as error:
        raise ConfigError(
            source=source, problem=f"is not UTF-8 text (byte {error.start})", remedy="save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            source=source,
            problem=f"is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}",
            remedy="mend that line (JSON has no comments and no trailing commas)",
        ) from error
    except RecursionError as error:
        raise ConfigError(source=source, problem="is nested too deeply") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise ConfigError(
            source=source,
            problem=f"holds a number that is too long: {error}",
            remedy="write a shorter number",
        ) from error
    return validate_config(data, source=source)
