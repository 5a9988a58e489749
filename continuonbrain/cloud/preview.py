"""What a bundle would hold, without writing anything, and without the secret of pseudonyms or a key."""

from __future__ import annotations

from dataclasses import dataclass

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud.papers import settings_paper, slots_of
from continuonbrain.cloud.plan import Plan


@dataclass(frozen=True, slots=True)
class PreviewPart:
    """One row: what, how many, and bytes: of episodes, as they lie in the memory; None where only the export knows."""

    what: str
    count: int
    bytes: int | None


_MADE_OF_WHAT_IS_READ = (
    "base.json: which base and adapters",
    "doctor.json: what was wrong with episodes",
    "episodes.jsonl: pseudonym, steps and sha256 of each record",
    "manifest.json: every file with its sha256, and the privacy list",
    "bundle.json: the signature",
)


def preview(brain: BrainRoot, plan: Plan) -> tuple[PreviewPart, ...]:
    """The rows of a dry run. Raises AdapterError, ExportRefused, as the export itself would."""
    rows = []
    for dataset in plan.datasets():
        episodes = [c for shard in dataset.shards for c in shard.episodes]
        size = "without pictures" if dataset.size is None else f"{dataset.size[1]}x{dataset.size[0]}"
        rows.append(
            PreviewPart(f"episodes, {size} (as in the memory)", len(episodes), sum(c.bytes for c in episodes))
        )
    for slot in slots_of(brain):
        size_of = sum(file.stat().st_size for file in slot.files)
        rows.append(PreviewPart(f"adapter {slot.version_id} ({slot.name})", 1, size_of))
    rows.append(PreviewPart("settings without paths and free texts", 1, len(settings_paper(brain))))
    rows += [PreviewPart(what, 1, None) for what in _MADE_OF_WHAT_IS_READ]
    if datasets := len(plan.datasets()):
        rows.append(PreviewPart("dataset_info.json and features.json of a dataset", 2 * datasets, None))
    return tuple(rows)
