"""Did you mean: the nearest known setting to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pydantic import BaseModel


def nearest_setting(root: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """'did you mean X?': this very name in another group first, then one like it in its own group, then anywhere."""
    name = str(loc[-1])
    prefix = "".join(f"{part}." for part in loc[:-1])
    by_leaf = {dotted.rsplit(".", 1)[-1]: dotted for dotted in _all_settings(root)}
    if name in by_leaf:
        return f"did you mean {by_leaf[name]}?"
    here = difflib.get_close_matches(name, fields_at(root, loc[:-1]), n=1, cutoff=0.6)
    if here:
        return f"did you mean {prefix}{here[0]}?"
    anywhere = difflib.get_close_matches(name, by_leaf, n=1, cutoff=0.6)
    return f"did you mean {by_leaf[anywhere[0]]}?" if anywhere else ""


def fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the settings of the group at `loc`; none where that is no group."""
    for part in loc:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _all_settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _all_settings(field.annotation, f"{prefix}{name}.")


def did_you_mean(name: str, known: tuple[str, ...]) -> str:
    """ " (did you mean X?)", or ""."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
