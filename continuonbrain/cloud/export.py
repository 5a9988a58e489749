"""Writing a bundle: what the plan says leaves, in one pass, with flat memory, and resumable.

The bundle grows as `<name>.part` beside its place, with `<name>.journal`; when it is signed and whole it is renamed.
A killed export that is begun again with the same memory, settings and options goes on behind the last member that is
on the disk, and ends with the bytes that it would have had. There is no time and no chance in them: the same input
makes the same bundle. With anything else than before it begins anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL

from continuonbrain import __version__
from continuonbrain.brain_root import BrainRoot, open_brain
from continuonbrain.cloud.errors import ExportRefused, NothingToExport
from continuonbrain.cloud.faces import FaceFinder
from continuonbrain.cloud.journal import FORMAT, Done, Journal
from continuonbrain.cloud.ledger import Ledger
from continuonbrain.cloud.manifest import (
    ENVELOPE,
    EPISODES,
    MANIFEST,
    Blurred,
    Contents,
    SignedMember,
    document_of,
    manifest_bytes,
)
from continuonbrain.cloud.papers import (
    Slot,
    base_paper,
    dataset_papers,
    doctor_paper,
    episodes_paper,
    refuse_places,
    settings_paper,
    slots_of,
)
from continuonbrain.cloud.plan import Dataset, Plan, Stays, kept_at_home
from continuonbrain.cloud.privacy import faces_blurred
from continuonbrain.cloud.refusals import refuse_nothing, refuse_without_opt_in
from continuonbrain.cloud.shards import ShardWriter, folder_of, member_of
from continuonbrain.cloud.sinks import Sink, open_sink, remove_growing
from continuonbrain.cloud.survey import files_of
from continuonbrain.errors import BrainError
from continuonbrain.model.base_identity import checkpoint_sha256
from continuonbrain.rlds.marking import is_bad
from continuonbrain.rlds.metadata import EpisodeMetadata
from continuonbrain.rlds.sharing import answer_of
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.pseudonyms import Pseudonyms, pseudonyms_of
from continuonbrain.storage.trusted_keys import PrivateKeys
from continuonbrain.storage.zip64 import Member

Progress = Callable[[int, int], None]
Delivered = Callable[["Exported"], None]
_PIECE = 1 << 20


@dataclass(frozen=True)
class Exported:
    """A bundle that is whole.

    Attributes:
        episodes, steps: that are in it.
        members: of the bundle, with manifest and signature.
        contents: by the names that they have here what the steps of the episodes in it were; see `Journal.contents_of`.
        left_out: what was to leave and could not be read.
        resumed: members that an earlier, killed export had written.
        blurred: faces that were found, None where none were looked for.
    """

    path: Path
    bytes: int
    episodes: int
    steps: int
    robot: str
    key_id: str
    members: tuple[Member, ...]
    contents: Mapping[str, str]
    left_out: tuple[Stays, ...]
    resumed: int = 0
    blurred: Blurred | None = None


def export_bundle(
    brain: BrainRoot,
    plan: Plan,
    out: Path,
    *,
    as_zip: bool,
    key_name: str,
    faces: FaceFinder | None = None,
    progress: Progress = lambda _done, _total: None,
    delivered: Delivered = lambda _exported: None,
) -> Exported:
    """Write what `plan` says leaves to `out`.

    Args:
        out: must not be there; its folder must.
        as_zip: one zip file, or a folder.
        faces: what it finds in pictures is blurred.
        progress: called with (steps done, steps in all).
        delivered: called when `out` has its name, and once more where the call before was killed in between.

    Raises:
        ExportRefused: no opt-in, nothing to leave, no key, `out` is there; nothing was written.
        NothingToExport: nothing of it could be read; nothing is left behind.
        BrainError: base, adapter or key cannot be used; LockHeldError when another export of this root is at work.
        OSError: the disk refused; what was written stays and is gone on with.
    """
    refuse_without_opt_in(brain)
    refuse_nothing(plan, brain.layout)
    if not out.parent.is_dir():
        raise ExportRefused(f"there is no folder {out.parent}", remedy="make it, or plug the stick in")
    layout = brain.layout
    layout.trainer_dir.mkdir(parents=True, exist_ok=True)
    with ProcessLock(layout.export_lock_path, purpose=f"export from {layout.root}"):
        key_id = PrivateKeys(layout).key_id(key_name)
        job = _Job(
            brain,
            plan,
            out,
            as_zip,
            key_name,
            key_id,
            names=pseudonyms_of(layout),
            base_sha256=checkpoint_sha256(layout.base_model_dir),
            slots=slots_of(brain),
            faces=faces,
        )
        return job.run(progress, delivered)


def journal_of(out: Path) -> Journal:
    """The journal of the bundle that becomes `out`."""
    return Journal(out.with_name(f"{out.name}.journal"))


@dataclass
class _Job:
    """One export. It asks the journal what is done, and writes the rest."""

    brain: BrainRoot
    plan: Plan
    out: Path
    as_zip: bool
    key_name: str
    key_id: str
    names: Pseudonyms
    base_sha256: str
    slots: tuple[Slot, ...]
    faces: FaceFinder | None

    def run(self, progress: Progress, delivered: Delivered) -> Exported:
        part = self.out.with_name(f"{self.out.name}.part")
        journal = journal_of(self.out)
        goes_on = journal.is_of(self._fingerprint())
        if self.out.exists() or self.out.is_symlink():
            last = journal.done[-1].member.name if journal.done else ""
            if goes_on and last == ENVELOPE and not part.exists():  # killed after it had its name
                return self._ended(journal, [], len(journal.done), delivered)
            raise ExportRefused(f"{self.out} is there already", remedy="remove it, or choose another name")
        if not goes_on or not part.exists():
            remove_growing(part)
            journal.begin(self._fingerprint())
        sink = open_sink(part, as_zip=self.as_zip)
        with contextlib.closing(sink):
            if not sink.keep([d.member for d in journal.done]):  # the stick was another one
                journal.begin(self._fingerprint())
                sink.keep([])
            resumed = len(journal.done)
            told = self._write(sink, journal, progress)
            sink.finish([d.member for d in journal.done], self.out)
        return self._ended(journal, told, resumed, delivered)

    def _write(self, sink: Sink, journal: Journal, progress: Progress) -> list[tuple[str, str]]:
        """Every member that is not done yet, in the one order. What the owner is told of episodes left out."""
        steps = 0

        def one_more(count: int) -> None:
            nonlocal steps
            steps += count
            progress(steps, self.plan.steps)

        datasets = self.plan.datasets()
        writer = ShardWriter(
            sink,
            self.brain.layout.episodes_dir,
            self.names,
            self.plan.frames,
            faces=self.faces,
            why_stays=self._why_stays,
            done=one_more,
        )
        done = iter(list(journal.done))
        shards: list[tuple[Dataset, Done]] = []
        for dataset in datasets:
            for shard in dataset.shards:
                found = next(done, None)
                if found is None:
                    journal.add(*writer.write(dataset, shard))
                    found = journal.done[-1]
                else:
                    one_more(sum(c.steps for c in shard.episodes))
                assert found.member.name == member_of(dataset, shard)
                shards.append((dataset, found))
        if not any(found.facts["examples"] for _, found in shards):
            sink.close()
            remove_growing(sink.path)
            journal.remove()
            why = "; ".join(problem for _, problem in writer.told[:1])
            raise NothingToExport(
                f"none of {len(self.plan.going)} episodes can be read: {why}",
                remedy=f"continuonbrain episodes doctor {self.brain.layout.episodes_dir}",
            )
        for name, content in self._papers(datasets, shards):
            if next(done, None) is None:
                self._put(sink, journal, name, content)
        if next(done, None) is None:
            self._put(sink, journal, MANIFEST, [self._manifest(shards, journal)])
        try:  # an export takes a while, and its owner may have thought better of it
            refuse_without_opt_in(open_brain(self.brain.layout.root))
        except BrainError:
            sink.close()
            remove_growing(sink.path)
            journal.remove()
            raise
        if next(done, None) is None:
            manifest = self._manifest(shards, journal)
            sha256 = hashlib.sha256(manifest).hexdigest()
            document = document_of(manifest, self.base_sha256)
            envelope = Ledger(self.brain.layout).signed(self.key_name, sha256, document)
            self._put(sink, journal, ENVELOPE, [envelope])
        return writer.told

    def _why_stays(self, metadata: EpisodeMetadata) -> str:
        return kept_at_home(
            answer_of(metadata.share),
            bad=is_bad(metadata),
            share_unmarked=self.brain.config.cloud.share_unmarked,
        )

    def _put(self, sink: Sink, journal: Journal, name: str, content: Iterable[bytes]) -> None:
        sink.begin(name)
        for piece in content:
            sink.write(piece)
        journal.add(sink.end(), {})

    def _papers(
        self, datasets: Iterable[Dataset], shards: list[tuple[Dataset, Done]]
    ) -> Iterable[tuple[str, Iterable[bytes]]]:
        facts = [found.facts for _, found in shards]
        for dataset in datasets:
            of_it = [found.facts for known, found in shards if known is dataset]
            for name, data in dataset_papers(dataset, of_it).items():
                yield name, [data]
        for slot in self.slots:
            for file in slot.files:
                yield f"adapters/{slot.name}/{file.name}", _pieces(file)
        decoded = self.plan.frames != "none"
        small = {
            "base.json": base_paper(self.base_sha256, self.slots),
            "config.json": settings_paper(self.brain),
            "doctor.json": doctor_paper(facts, decoded=decoded),
            EPISODES: episodes_paper(facts, [self.names.episode(c.name) for c in self.plan.in_time()]),
        }
        for name, data in small.items():
            refuse_places(data, self.brain, name)
            yield name, [data]

    def _manifest(self, shards: list[tuple[Dataset, Done]], journal: Journal) -> bytes:
        datasets: dict[str, dict[str, int]] = {}
        episodes = steps = 0
        for dataset, found in shards:
            height, width = dataset.size or (0, 0)
            told = datasets.setdefault(
                folder_of(dataset), {"height": height, "width": width, "episodes": 0, "steps": 0}
            )
            count, length = len(found.facts["episodes"]), sum(e["steps"] for e in found.facts["episodes"])
            told["episodes"] += count
            told["steps"] += length
            episodes, steps = episodes + count, steps + length
        members = [d.member for d in journal.done if d.member.name not in (MANIFEST, ENVELOPE)]
        return manifest_bytes(
            Contents(
                robot=self.names.root,
                base_sha256=self.base_sha256,
                frames=self.plan.frames,
                episodes=episodes,
                steps=steps,
                datasets=datasets,
                adapters={slot.name: slot.told() for slot in self.slots},
                members=tuple(SignedMember(m.name, m.bytes, m.sha256) for m in members),
                faces="" if self.faces is None else faces_blurred(self.faces.told),
                blurred=self._blurred(found for _, found in shards),
            )
        )

    def _blurred(self, done: Iterable[Done]) -> Blurred | None:
        if self.faces is None:
            return None
        return sum((Blurred(**d.facts["blurred"]) for d in done if "blurred" in d.facts), Blurred())

    def _ended(
        self, journal: Journal, told: list[tuple[str, str]], resumed: int, delivered: Delivered
    ) -> Exported:
        lines = [line for d in journal.done for line in d.facts.get("episodes", ())]
        why = dict(told)
        bad = {
            line["episode"] for d in journal.done for line in d.facts.get("doctor", ()) if "left_out" in line
        }
        left_out = [
            Stays(c.name, why.get(c.name, "it cannot be read"))
            for c in self.plan.going
            if self.names.episode(c.name) in bad
        ]
        size = self.out.stat().st_size if self.as_zip else sum(d.member.bytes for d in journal.done)
        exported = Exported(
            path=self.out,
            bytes=size,
            episodes=len(lines),
            steps=sum(line["steps"] for line in lines),
            robot=self.names.root,
            key_id=self.key_id,
            members=tuple(d.member for d in journal.done),
            contents=journal.contents_of(self.plan.going, self.names),
            left_out=tuple(left_out),
            resumed=resumed,
            blurred=self._blurred(journal.done),
        )
        delivered(exported)
        journal.remove()
        return exported

    def _fingerprint(self) -> str:
        """Of everything that the bytes depend on. Under the secret: the journal may lie on somebody's stick."""
        episodes = self.brain.layout.episodes_dir
        files: dict[str, Any] = {}
        for candidate in self.plan.going:
            try:
                stats = [(f.name, f.stat()) for f in files_of(episodes / candidate.name)]
            except OSError:  # it went away: it will be left out
                stats = []
            files[candidate.name] = [[name, s.st_size, s.st_mtime_ns] for name, s in stats]
        settings: Mapping[str, Any] = self.brain.config.model_dump(mode="json")
        value = {
            "program": [__version__, PIL.__version__, FORMAT],
            "as_zip": self.as_zip,
            "frames": self.plan.frames,
            "faces": "" if self.faces is None else self.faces.told,
            "going": [asdict(c) for c in self.plan.going],
            "files": files,
            "slots": [slot.told() for slot in self.slots],
            "base": self.base_sha256,
            "settings": settings,
            "key": self.key_id,
        }
        return self.names.of("fingerprint", json.dumps(value, sort_keys=True))


def _pieces(file: Path) -> Iterable[bytes]:
    with open(file, "rb") as opened:
        while piece := opened.read(_PIECE):
            yield piece
