"""The judging half of the mid loop: the candidate's bytes in the engine that serves, the rules, `verdict.json`.

Free of torch where LiteRT serves.
"""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continuonbrain import __version__
from continuonbrain.config import BrainConfig
from continuonbrain.errors import BrainError
from continuonbrain.policy.calibration import Calibration
from continuonbrain.policy.engine import Engine
from continuonbrain.policy.open_engine import BUNDLES, engine_name
from continuonbrain.policy.open_watch import open_watches
from continuonbrain.policy.reflex import REFLEX_FILE, Reflex
from continuonbrain.safety.guards import Limits
from continuonbrain.storage.adapter_version import CARD_FILE, VERDICT_FILE
from continuonbrain.storage.adapters import AdapterVersion
from continuonbrain.storage.content_hash import sha256_of_files, sha256_of_json
from continuonbrain.trainer.agenda import Place, agenda
from continuonbrain.trainer.checks import Rules
from continuonbrain.trainer.course import Course
from continuonbrain.trainer.dataset import Samples
from continuonbrain.trainer.evaluate import Contender, gather_evidence
from continuonbrain.trainer.evidence import Evidence, Sources
from continuonbrain.trainer.exam import Paper
from continuonbrain.trainer.states import REPLAY_SOURCE, frozen_samples
from continuonbrain.trainer.verdict import judge

if TYPE_CHECKING:
    from continuonbrain.loops.at_work import Sidecar

_COMPUTED_WITH = ("numpy", "torch", "ai-edge-litert")


def replayable(base: Path) -> bool:
    """Whether states of what the base was made from can be drawn again here: of the simulator, for the tiny base."""
    try:
        card = json.loads((base / CARD_FILE).read_bytes())
        return REPLAY_SOURCE in str(card["data"]["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def rules_of(config: BrainConfig, base: Path, *, needs_gain: bool = True) -> Rules:
    """The thresholds that a config asks for. needs_gain: False for a consolidation. Raises `ReflexError` for a damaged
    head of the base."""
    p = config.promotion
    return Rules(
        avg_action_delta_threshold=p.avg_action_delta_threshold,
        max_completion_loss=p.max_completion_loss,
        max_forgetting=p.max_forgetting,
        max_harm=p.max_harm,
        min_stop_obeyed=p.min_stop_obeyed,
        max_guard_share=p.max_guard_share,
        min_eval_episodes=p.min_eval_episodes,
        needs_reflex=config.training.reflex_steps > 0 and Reflex.of_folder(base) is not None,
        allow_promotion_without_eval=p.allow_promotion_without_eval,
        needs_gain=needs_gain,
    )


def judge_candidate(
    mid: Sidecar,
    staged: AdapterVersion,
    train: Samples,
    held: Samples | None,
    *,
    engine: Engine,
    course: Course | None,
    exam: Paper | None = None,
    short: str = "",
) -> dict[str, Any]:
    """Measure the candidate's bytes in the engine that serves, apply the rules, attach `verdict.json`; returns it.
    exam: of a consolidation, which is judged by what it has forgotten instead of by a gain. short: what of its training
    had no time, in words: a refusal names it, as that may be why."""
    config, base = mid.config, mid.layout.base_model_dir
    mid.say(
        phase="judge",
        candidate=staged.version_id,
        step=0,
        steps=0,
        part=0,
        parts=0,
        loss=None,
        detail="judging the candidate",
    )
    place = Place([])

    def judging(part: str, done: int, total: int) -> None:
        mid.wait_until_allowed()  # judging holds still while a gate is closed, as training does
        at, of = place.reach(part), len(place.parts)
        mid.say(force=False, phase="judge", detail=part, step=done, steps=total, part=at, parts=of)

    watch_with = None
    if config.heads.safety.enabled:
        watch_with = open_watches(mid.layout.safety_dir, mid.layout.manifest_path, acts=False)
    replay = frozen_samples(engine.base_sha256, look=mid.look) if replayable(base) else None
    current = _contender(mid.store.current(), mid.layout.base_calibration_path)
    try:
        candidate = _contender(staged)
    except BrainError as error:  # its calibration: nothing can be driven with it
        sha256 = staged.compute_sha256()
        evidence = Evidence(sha256, engine.base_sha256, "", 0, refused=error.message)
    else:
        contenders = {"base": base, "current": current.folder, "candidate": candidate.folder}
        place.parts = agenda(
            current=current.folder is not None,
            held=held is not None,
            replay=replay is not None,
            exam=exam is not None,
            course=course is not None,
            heads={name for name, of in contenders.items() if of and (of / REFLEX_FILE).exists()},
            watched=watch_with is not None,
        )
        evidence = gather_evidence(
            engine,
            candidate=candidate,
            current=current,
            train=train,
            held=held,
            limits=Limits.from_config(config.guards),
            course=course,
            replay=replay,
            exam=exam,
            decision_time_s=config.robot.decision_time_s,
            watch_with=watch_with,
            on_part=judging,
        )
    evidence = replace(evidence, sources=with_what_computed(evidence.sources, config, base))
    verdict = judge(evidence, rules_of(config, base, needs_gain=exam is None)).to_json()
    if short and not verdict["passed"]:
        verdict["reason"] += f"; {short}"
    mid.store.attach(staged, VERDICT_FILE, (json.dumps(verdict, indent=2) + "\n").encode())
    return verdict


def _contender(version: AdapterVersion | None, servo: Path | None = None) -> Contender:
    """servo: what an imported base drives with while it has no adapter."""
    if version is None:
        return Contender(None, "", Calibration() if servo is None else Calibration.from_file(servo))
    calibration = Calibration.from_file(version.path / "calibration.json")
    return Contender(version.path, version.compute_sha256(), calibration)


def with_what_computed(sources: Sources, config: BrainConfig, base: Path) -> Sources:
    """The sources with engine, bundle, settings and versions."""
    name, bundle = engine_name(base, config.policy), base / BUNDLES / config.policy.precision
    versions = {"continuonbrain": __version__, "python": platform.python_version()}
    for package in _COMPUTED_WITH:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    served = sorted(p.name for p in bundle.iterdir() if p.is_file()) if name == "litert" else []
    return replace(
        sources,
        engine=f"{name} {config.policy.precision}" if name == "litert" else name,
        bundle_sha256=sha256_of_files(bundle, served) if served else "",
        config_sha256=sha256_of_json(config.model_dump(mode="json")),
        versions=versions,
    )
