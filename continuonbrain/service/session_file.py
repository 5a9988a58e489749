"""`run/sessions.json`: who was let in, for a service that starts anew. It opens nothing: tokens are not in it."""

from __future__ import annotations

import json
import logging
import re
from math import isfinite
from pathlib import Path

from continuonbrain.service.access import KeptSession
from continuonbrain.storage.durable import replace_file
from continuonbrain.storage.plain_json import load_strict

log = logging.getLogger(__name__)

SESSION_FILE = "sessions.json"
_LARGEST = 1 << 20
_KEY, _NAME = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{8}")


def read_sessions(path: Path) -> list[KeptSession]:
    """What `write_sessions` left; [] where there is none, or nothing that can be read: then everybody pairs anew."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is longer than {_LARGEST} bytes")
        value = load_strict(path.read_bytes())
        if not isinstance(value, list):
            raise ValueError("it holds no list")
        return [_session(item) for item in value]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read, everybody pairs anew: %s", path, error)
        return []


def write_sessions(path: Path, sessions: list[KeptSession]) -> None:
    """Replace the file, for this user alone (0600). What the disk refuses is logged: they are let in until the end."""
    told = [{"key": s.key, "name": s.name, "seen_unix_s": round(s.seen_s, 1)} for s in sessions]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(told).encode(), mode=0o600)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)


def _session(item: object) -> KeptSession:
    if not isinstance(item, dict) or item.keys() != {"key", "name", "seen_unix_s"}:
        raise ValueError("a session has key, name, seen_unix_s")
    key, name, seen = item["key"], item["name"], item["seen_unix_s"]
    if not (isinstance(key, str) and _KEY.fullmatch(key) and isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError("a session's key or name is none")
    if isinstance(seen, bool) or not isinstance(seen, int | float) or not isfinite(seen):
        raise ValueError(f"seen_unix_s = {seen!r} is no time")
    return KeptSession(key, name, float(seen))
