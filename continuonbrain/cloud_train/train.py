"""`cloud train` from end to end: bundles checked, samples prepared, workers run, the robot's shape, figures.

    OUT/adapter/        what a robot takes: PEFT's two files, reflex head, calibration, card
    OUT/full/           what was trained, where that has another shape
    OUT/metrics.json    losses and errors on what was held out
    OUT/training.json   what was trained, on what, by what; written last: without it the run is not done
    OUT/tensorboard/    the log
    OUT/unfinished/           what a run needs until it is done

Each part is taken up again where it was left: by the same command, in the same folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from continuonbrain import __version__
from continuonbrain.cloud_train.bundles import OpenBundle, open_bundle
from continuonbrain.cloud_train.card import card_of
from continuonbrain.cloud_train.errors import FitRefused, TrainRefused
from continuonbrain.cloud_train.fit import Elsewhere
from continuonbrain.cloud_train.plan import Plan
from continuonbrain.cloud_train.prepare import HELD, REPLAY, TRAIN, Prepared, prepare
from continuonbrain.cloud_train.recipe import Recipe, common
from continuonbrain.cloud_train.sample_store import store_sha256, write_samples
from continuonbrain.cloud_train.shape import config_of, shape_of
from continuonbrain.config.brain import BrainConfig
from continuonbrain.errors import BrainError
from continuonbrain.loops.adapter_origin import CALIBRATION_OF
from continuonbrain.model.base_identity import BaseModelError, base_sha256
from continuonbrain.storage.adapter_version import CARD_FILE, REFLEX_FILE, adapter_sha256
from continuonbrain.storage.content_hash import sha256_of_json
from continuonbrain.storage.durable import write_directory_durably, write_json_durably
from continuonbrain.storage.lock import ProcessLock
from continuonbrain.storage.plain_json import load_strict
from continuonbrain.storage.public_key import PublicKey

TRAINING, METRICS, PREPARED = "training.json", "metrics.json", "prepared.json"
ADAPTER, FULL = "adapter", "full"
FORMAT = "continuonbrain.cloud_training.1"


@dataclass(frozen=True)
class Asked:
    """One `cloud train`.

    Attributes:
        config: whose recipe holds; None: the robots', where they train alike.
        recipe: of those settings.
        robot: whose calibration travels with the adapter; None: the only one's.
        elsewhere: what becomes of modules that a robot does not adapt.
        skip_refused: train without bundles that are refused; they are named in `training.json`.
    """

    bundles: tuple[Path, ...]
    keys: tuple[PublicKey, ...]
    base: Path
    out: Path
    recipe: Callable[[BrainConfig, bool], Recipe]
    config: Path | None = None
    workers: int = 1
    robot: str | None = None
    elsewhere: Elsewhere = "refuse"
    cpu: bool = False
    sharded: bool = False
    save_every: int = 50
    eval_every: int = 50
    cache_mib: int = 2048
    skip_refused: bool = False


def train(asked: Asked, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Run it, or go on with it; what `training.json` says in the end.

    Raises:
        TrainRefused, BundleRefused, SignatureRefused: nothing was begun.
        TrainInterrupted: a worker was killed; the same call goes on.
        BrainError: base, settings or samples cannot be used.
        OSError: the disk refused.
    """
    if not asked.bundles:
        raise TrainRefused("no bundle was given", remedy="give what `cloud export` wrote")
    try:
        sha256 = base_sha256(asked.base)
    except BaseModelError as error:
        raise TrainRefused(
            error.message, remedy="give the robots' base: a copy of the folder model/base_model of their root"
        ) from error
    asked.out.mkdir(parents=True, exist_ok=True)
    with ProcessLock(asked.out / ".lock", purpose=f"train into {asked.out}"):
        return _train(asked, sha256, say)


def _train(asked: Asked, sha256: str, say: Callable[[str], None]) -> dict[str, Any]:
    unfinished = asked.out / "unfinished"
    bundles, refused = _opened(asked, sha256, unfinished, say)
    bundles = sorted({b.manifest_sha256: b for b in bundles}.values(), key=lambda b: b.in_time)
    _one_key_each(bundles)
    config = common([b.settings for b in bundles]) if asked.config is None else config_of(asked.config)[0]
    recipe = asked.recipe(config, True)
    if recipe.batch_size < asked.workers:
        raise TrainRefused(
            f"{asked.workers} workers share passes of {recipe.batch_size} samples",
            remedy="give fewer --workers, or a larger --batch",
        )
    names = sorted(b.manifest_sha256 for b in bundles)
    asked_for = sha256_of_json(
        {
            "bundles": names,
            "base": sha256,
            "recipe": recipe.to_json(),
            "config": config.model_dump(mode="json"),
            "robot": asked.robot,
            "elsewhere": asked.elsewhere,
        }
    )
    if (asked.out / TRAINING).exists():
        shutil.rmtree(unfinished, ignore_errors=True)  # the pictures that were unpacked to be looked at
    if (done := _done(asked, asked_for)) is not None:
        return {**done, "refused": refused}  # now, not then: the same bundles may have come with others
    prepared = _prepared(asked, bundles, config, unfinished, asked_for, say)
    robot = _whose_calibration(asked, prepared)
    recipe = asked.recipe(config, prepared.measured)
    from continuonbrain.cloud_train.launch import has_accelerator, run_workers

    plan = Plan(
        out=asked.out.absolute(),
        base=asked.base.absolute(),
        base_sha256=sha256,
        samples_sha256=_samples_sha256(unfinished),
        recipe=recipe,
        robots=tuple(prepared.robots),
        robot_of=tuple(prepared.robot_of),
        cpu=asked.cpu or not has_accelerator(),
        sharded=asked.sharded,
        save_every=asked.save_every,
        eval_every=asked.eval_every,
        cache_mib=asked.cache_mib,
    )
    plan.write()

    say(f"training on {prepared.train} samples of the bundles, with {asked.workers} workers")
    figures = run_workers(plan, asked.workers)
    return _finish(asked, plan, prepared, bundles, config, figures, robot, asked_for, refused, say)


def _one_key_each(bundles: Sequence[OpenBundle]) -> None:
    """Raises TrainRefused where a robot's name comes with two keys: whoever is trusted may send lessons of their own
    robots, and put nobody else's in their place."""
    first: dict[str, OpenBundle] = {}
    for bundle in bundles:
        known = first.setdefault(bundle.contents.robot, bundle)
        if known.key.key_id != bundle.key.key_id:
            raise TrainRefused(
                f"{known.path} and {bundle.path} say that they are of one robot ({bundle.contents.robot}), and are "
                f"signed with two keys ({known.key.key_id[:16]}, {bundle.key.key_id[:16]})",
                remedy="leave out the one whose key is not that robot's; one with a new key exports its memory again",
            )


def _opened(
    asked: Asked, sha256: str, unfinished: Path, say: Callable[[str], None]
) -> tuple[list[OpenBundle], list[str]]:
    """The bundles that are taken, and why others are not, which are an error unless they may be skipped."""
    found: list[OpenBundle] = []
    refused: list[str] = []
    for path in asked.bundles:
        say(f"checking {path.name}")
        try:
            found.append(open_bundle(path, asked.keys, base_sha256=sha256, unfinished=unfinished / "bundles"))
        except BrainError as error:
            if not asked.skip_refused:
                if len(asked.bundles) > 1:
                    say(f"{path.name} is refused; to train without it: --skip-refused")
                raise
            say(f"left out: {error}")
            refused.append(str(error))
    if not found:
        raise TrainRefused(
            f"none of {len(refused)} bundles is taken: {refused[0]}", remedy="export them again"
        )
    return found, refused


def _done(asked: Asked, asked_for: str) -> dict[str, Any] | None:
    """What this very run has said already. Raises TrainRefused where another one has ended here."""
    try:
        found: dict[str, Any] = json.loads((asked.out / TRAINING).read_bytes())
    except FileNotFoundError:
        return None
    if found.get("asked_for") == asked_for:
        return found
    raise TrainRefused(f"{asked.out} holds another training", remedy="give another folder with --out")


def _prepared(
    asked: Asked,
    bundles: Sequence[OpenBundle],
    config: BrainConfig,
    unfinished: Path,
    asked_for: str,
    say: Callable[[str], None],
) -> Prepared:
    """Samples on disk: those of before, where they are of the same."""
    paper = unfinished / PREPARED
    if paper.exists():
        known = _told_before(paper)
        if known.get("asked_for", asked_for) != asked_for:
            raise TrainRefused(
                f"{asked.out} holds an unfinished training of other bundles, options or settings",
                remedy=f"go on with what it was given, or give another folder with --out, or remove {unfinished}",
            )
        if (prepared := _prepared_before(known, unfinished)) is not None:
            return prepared
        say(f"the samples in {unfinished} are not those that were written there: they are prepared again")
    paper.unlink(missing_ok=True)
    unfinished.mkdir(parents=True, exist_ok=True)
    prepared = prepare(bundles, asked.base, config, unfinished, say=say)
    from continuonbrain.loops.learning import replay_for

    say("drawing what the base knows")
    replay = replay_for(asked.base, asked.recipe(config, True).seed)
    write_samples(unfinished / REPLAY, [] if replay is None else [replay])
    told = prepared.to_json()
    write_json_durably(
        paper,
        {
            "asked_for": asked_for,
            "samples_sha256": _samples_sha256(unfinished),
            "prepared": told,
            "prepared_sha256": sha256_of_json(told),
        },
    )
    return prepared


def _told_before(paper: Path) -> dict[str, Any]:
    """What a run that was begun says of its samples; {} where that cannot be read."""
    try:
        known = load_strict(paper.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _prepared_before(known: dict[str, Any], unfinished: Path) -> Prepared | None:
    """What was prepared; None where samples, or what is said of them, are not as they were written: calibrations go on
    to a robot from there."""
    try:
        written = known["samples_sha256"], known["prepared_sha256"]
        if written == (_samples_sha256(unfinished), sha256_of_json(known["prepared"])):
            return Prepared.from_json(known["prepared"])
    except (OSError, KeyError, TypeError, AttributeError, BrainError):
        pass  # something is missing, or another version has written it
    return None


def _whose_calibration(asked: Asked, prepared: Prepared) -> str | None:
    if asked.robot is None:
        # Of several robots nobody's, also where all others were left out: it would be taken for theirs.
        alone = len(prepared.robots) == 1 and not prepared.uncalibrated
        return prepared.robots[0] if alone else None
    if asked.robot in prepared.uncalibrated:
        raise TrainRefused(
            f"no calibration can be fitted to the drives of {asked.robot}",
            remedy=f"choose from {', '.join(prepared.robots)}",
        )
    if asked.robot not in prepared.robots:
        raise TrainRefused(
            f"none of the bundles is of {asked.robot}", remedy=f"choose from {', '.join(prepared.robots)}"
        )
    return asked.robot


def _samples_sha256(unfinished: Path) -> str:
    digest = hashlib.sha256()
    for name in (TRAIN, HELD, REPLAY):
        digest.update(f"{name} {store_sha256(unfinished / name)}\n".encode())
    return digest.hexdigest()


def _finish(
    asked: Asked,
    plan: Plan,
    prepared: Prepared,
    bundles: Sequence[OpenBundle],
    config: BrainConfig,
    figures: dict[str, Any],
    robot: str | None,
    asked_for: str,
    refused: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    from continuonbrain.cloud_train.finish import (
        adapter_folder_files,
        figures_on_held_out,
        in_shape,
        reflex_for,
    )

    if not figures["steps"]:
        raise TrainRefused(
            f"the job ended ({figures['ended']}) before its first step", remedy="look at the samples' labels"
        )
    shape = shape_of(config, asked.base)
    training: dict[str, Any] = {
        "format": FORMAT,
        "by": f"continuonbrain {__version__}",
        "asked_for": asked_for,
        "base_sha256": plan.base_sha256,
        "rank": plan.recipe.rank,
        "layers": plan.recipe.layers,
        "first_shared_layer": shape.first_layer,
        "bundles": [b.told() for b in bundles],
        "engine": figures["engine"],
        "steps": figures["steps"],
        "ended": figures["ended"],
        "seed": plan.recipe.seed,
        "recipe": plan.recipe.to_json(),
        "samples": figures["samples"],
        "samples_of_bundles": prepared.train,
        "samples_sha256": plan.samples_sha256,
        "robots": prepared.robots,
        "calibrations": {r: asdict(c) for r, c in prepared.calibrations.items()},
        CALIBRATION_OF: robot,
        "episodes": prepared.trained_on,
        "held_out": prepared.held_out,
        "duplicates": prepared.duplicates,
        "left_out": prepared.left_out,
        "refused": list(refused),
        "tensorboard": figures["tensorboard"],
    }
    errors: dict[str, Any] = {}
    full = {p.name: p.read_bytes() for p in plan.adapter_dir.iterdir()}
    # An engine drives no adapter on other layers than a robot's, and a head is taught by what drives.
    reflex, extra = b"", dict[str, Any]()
    try:
        fitted = in_shape(plan, shape, asked.elsewhere)
    except FitRefused as error:
        why = error.message.replace(str(plan.adapter_dir), str(asked.out / FULL))
        remedy = (
            f"merge it into a base of its own: continuonbrain model merge BASE GROWN --adapter {asked.out / FULL}; or "
            f"drop them and look at the error: continuonbrain cloud fit {asked.out} --for ROBOT --out ADAPTER "
            "--elsewhere drop"
        )
        training["fit"] = {"how": "refused", "why": why, "remedy": remedy}
        training["adapter"] = None
    else:
        training["fit"] = fitted.told()
        reflex, extra = reflex_for(plan, fitted.files, say)
        files = adapter_folder_files(fitted, reflex, prepared, robot)
        training["adapter_sha256"] = adapter_sha256(files)
        training["adapter"] = ADAPTER
        say("looking at what was held out")
        errors = figures_on_held_out(plan, prepared, files)
        files[CARD_FILE] = (json.dumps(card_of(training), indent=2) + "\n").encode()
        _replace(asked.out / ADAPTER, files)
    if training["fit"]["how"] != "as it is":
        _replace(asked.out / FULL, full | ({REFLEX_FILE: reflex} if reflex else {}))
    metrics = {
        name: figures[name]
        for name in (
            "ended", "steps", "resumed_at", "samples", "trainable_parameters", "cached", "cache_s", "train_s",
            "peak_rss_mib", "held_out_losses", "losses",
        )
    }  # fmt: skip
    write_json_durably(asked.out / METRICS, {**metrics, **extra, "held_out_errors": errors})
    write_json_durably(asked.out / TRAINING, training)
    shutil.rmtree(plan.unfinished, ignore_errors=True)
    return training


def _replace(folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    write_directory_durably(folder, files)
