"""What becomes samples of several bundles: in which order they are read, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from continuonbrain.brain_root import BrainRoot
from continuonbrain.cloud.export import export_bundle
from continuonbrain.cloud.outbox import fill_outbox
from continuonbrain.cloud.plan import what_leaves
from continuonbrain.cloud.survey import survey
from continuonbrain.cloud_train.bundles import OpenBundle, open_bundle
from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.cloud_train.prepare import TRAIN, Prepared, prepare
from continuonbrain.cloud_train.sample_store import read_samples
from continuonbrain.cloud_train.train import Asked, _whose_calibration
from continuonbrain.loops.at_work import Sidecar
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.rlds.marking import relabel
from continuonbrain.rlds.reader import list_episodes
from continuonbrain.rlds.step import Step
from continuonbrain.rlds.writer import METADATA_FILE
from continuonbrain.storage.pseudonyms import pseudonyms_of
from continuonbrain.trainer.dataset import read_drive
from continuonbrain.trainer.held_out import hold_out, instructions_by_name

from .conftest import KEY, export, new_root, public_key
from .driving import BASE, drive

SAID = ("keep left", "keep right", "drive", "drive slowly")


def opened(brain: BrainRoot, path: Path) -> OpenBundle:
    """A bundle of a robot, checked."""
    return open_bundle(
        path, [public_key(brain)], base_sha256=base_sha256(BASE), unfinished=path.parent / "unpacked"
    )


def prepared(brain: BrainRoot, bundles: Sequence[OpenBundle], tmp_path: Path) -> Prepared:
    """What the trainer makes of them, with names of the opposite order: chance must not say what is older."""
    odd = [replace(b, manifest_sha256=f"{9 - i}" * 64) for i, b in enumerate(bundles)]
    return prepare(odd, BASE, brain.config, tmp_path / "samples")


def own_names(brain: BrainRoot, pseudonyms: Sequence[str]) -> list[str]:
    """What the robot calls these episodes."""
    names = pseudonyms_of(brain.layout)
    known = {names.episode(p.name): p.name for p in list_episodes(brain.layout.episodes_dir)}
    return [known[p.split("/")[-1]] for p in pseudonyms]


def held_at_home(brain: BrainRoot) -> list[str]:
    """What the robot holds out itself, by the time at which its episodes came."""
    paths = list_episodes(brain.layout.episodes_dir)
    paths.sort(key=lambda p: ((p / METADATA_FILE).stat().st_mtime_ns, p.name))
    rules = brain.config.promotion
    said = instructions_by_name([read_drive(p) for p in paths])
    _, held = hold_out(paths, tail=rules.eval_tail_episodes, least=rules.min_eval_episodes, said=said)
    return [p.name for p in held]


def test_of_bundles_that_an_outbox_made_the_robots_own_held_out_episodes_are_held_out(tmp_path: Path) -> None:
    brain = new_root(tmp_path / "one")
    bundles: list[OpenBundle] = []
    sent: set[str] = set()
    for part in range(3):
        for i in range(8 * part, 8 * part + 8):
            drive(brain, f"202601{i + 1:02d}T080000Z-aaaa", seed=i, steps=30, said=SAID[i % 4])
        plan = what_leaves(survey(brain.layout.episodes_dir), share_unmarked=False, sent=sent)
        out = tmp_path / f"memory-{part + 1}.zip"
        export_bundle(brain, plan, out, as_zip=True, key_name=KEY)
        bundles.append(opened(brain, out))
        sent |= {c.name for c in plan.going}
    found = prepared(brain, bundles, tmp_path)
    assert own_names(brain, found.held_out) == held_at_home(brain)
    learned = own_names(brain, found.trained_on)
    assert learned == sorted(learned)


def test_a_lesson_that_was_labelled_anew_is_learned_with_the_later_words(tmp_path: Path) -> None:
    brain = new_root(tmp_path / "one")
    lessons = [drive(brain, f"2026010{i + 1}T080000Z-aaaa", seed=i, steps=30) for i in range(6)]
    first = export(brain, tmp_path / "first.zip").path
    for path in lessons:
        relabel(path, "keep right")
    second = export(brain, tmp_path / "second.zip", frames="half").path  # and with smaller pictures
    found = prepared(brain, [opened(brain, second), opened(brain, first)], tmp_path)
    samples = read_samples(tmp_path / "samples" / TRAIN)
    assert samples is not None
    assert set(samples.instructions) == {"keep right"}
    assert len(found.trained_on) + len(found.held_out) == len(found.duplicates) == 6


def test_what_an_outbox_sends_again_with_new_words_stays_where_it_was_in_time(tmp_path: Path) -> None:
    brain = new_root(tmp_path / "one")
    lessons: list[Path] = []
    bundles: list[OpenBundle] = []
    for part in range(3):
        for i in range(8 * part, 8 * part + 8):
            lessons.append(
                drive(brain, f"202601{i + 1:02d}T080000Z-aaaa", seed=i, steps=30, said=SAID[i % 4])
            )
        if part:
            relabel(lessons[3 * part], "drive slowly, keep left")
        bundles.append(opened(brain, Path(fill_outbox(brain).path)))
    assert [b.contents.episodes for b in bundles] == [8, 9, 9]
    found = prepared(brain, bundles, tmp_path)
    assert own_names(brain, found.held_out) == held_at_home(brain)
    learned = own_names(brain, found.trained_on)
    assert learned == sorted(learned)
    samples = read_samples(tmp_path / "samples" / TRAIN)
    assert samples is not None
    words = {learned[e]: said for e, said in zip(samples.episode.tolist(), samples.instructions, strict=True)}
    assert {words[lessons[i].name] for i in (3, 6) if lessons[i].name in words} == {"drive slowly, keep left"}


def test_pictures_of_two_sizes_and_an_old_tub_that_came_last_are_in_the_order_of_their_coming(
    tmp_path: Path,
) -> None:
    brain = new_root(tmp_path / "one")
    names = [f"202601{i + 1:02d}T080000Z-aaaa" for i in range(11)] + ["20190101T080000Z-tub0"]
    for i, name in enumerate(names):
        drive(brain, name, seed=i, steps=30, said=SAID[i % 4], every=2 if i % 3 == 1 else 1)
    plan = what_leaves(survey(brain.layout.episodes_dir), share_unmarked=False)
    out = tmp_path / "memory"
    export_bundle(brain, plan, out, as_zip=False, key_name=KEY)
    found = prepared(brain, [opened(brain, out)], tmp_path)
    assert own_names(brain, found.held_out) == held_at_home(brain)
    learned = own_names(brain, found.trained_on)
    assert learned == [n for n in names if n in learned]
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    told = sorted(lines, key=lambda line: int(line["order"]))
    assert own_names(brain, [line["episode"] for line in told]) == names


def test_what_the_policy_drove_is_no_lesson_here_as_on_the_robot_whoever_its_steps_name(
    tmp_path: Path,
) -> None:
    brain = new_root(tmp_path / "one")
    for i in range(8):
        role = "autonomous" if i % 3 == 1 else "human_teleop"
        drive(brain, f"2026010{i + 1}T080000Z-aaaa", seed=i, steps=30, said=SAID[i % 2], control_role=role)
    out = export(brain, tmp_path / "memory.zip")
    assert out.episodes == 8
    found = prepared(brain, [opened(brain, out.path)], tmp_path)
    own, _ = Sidecar(brain).new_episodes()
    assert len(own) == 5
    assert sorted(own_names(brain, found.trained_on + found.held_out)) == [p.name for p in own]
    assert found.left_out == []


def bundle_of(folder: Path, name: str, seed: int, broken: Callable[[Step], Step] = lambda s: s) -> OpenBundle:
    """What a robot with six lessons exported."""
    brain = new_root(folder / name)
    for i in range(6):
        drive(brain, f"2026010{i + 1}T080000Z-aaaa", seed=seed + i, said=SAID[i % 2], broken=broken)
    return opened(brain, export(brain, folder / f"{name}.zip").path)


def test_a_robot_with_a_broken_gyro_is_left_out_of_a_fleets_run_and_named(tmp_path: Path) -> None:
    good = bundle_of(tmp_path, "good", 0)
    gyro = bundle_of(tmp_path, "gyro", 20, lambda s: replace(s, yaw_rate_rps=6 * (s.yaw_rate_rps or 0)))
    config = good.settings
    said: list[str] = []
    found = prepare([gyro, good], BASE, config, tmp_path / "samples", say=said.append)
    assert found.robots == list(found.calibrations) == [good.contents.robot]
    assert found.uncalibrated == [gyro.contents.robot]
    assert {name.split("/")[0] for name in found.trained_on + found.held_out} == {good.contents.robot}
    (told,) = found.left_out
    assert told.startswith(f"{gyro.contents.robot} (gyro.zip): calibration: steering_gain")
    assert f"left out: {told}" in said
    with pytest.raises(TrainRefused, match=r"\(gyro.zip\): calibration: steering_gain") as refused:
        prepare([gyro], BASE, config, tmp_path / "alone")
    assert "the gyro" in refused.value.remedy
    # The one that is left is not the fleet: its servo's calibration travels only where somebody says so.
    asked = Asked((), (), BASE, tmp_path, recipe=lambda _config, _measured: pytest.fail("not asked"))
    assert _whose_calibration(asked, found) is None
    assert _whose_calibration(replace(asked, robot=good.contents.robot), found) == good.contents.robot
    with pytest.raises(TrainRefused, match="no calibration can be fitted"):
        _whose_calibration(replace(asked, robot=gyro.contents.robot), found)


def test_an_episode_with_a_command_that_no_car_has_is_left_out(tmp_path: Path) -> None:
    def huge(step: Step) -> Step:
        return replace(step, command=(3.4e38, 0.4)) if step.tick == 23 else step

    bundle = bundle_of(tmp_path, "one", 0)
    brain = new_root(tmp_path / "other")
    drive(brain, "20260101T080000Z-aaaa", seed=50, broken=huge)
    odd = opened(brain, export(brain, tmp_path / "odd.zip").path)
    found = prepare([bundle, odd], BASE, bundle.settings, tmp_path / "samples")
    assert found.robots == [bundle.contents.robot]
    (told,) = found.left_out
    assert told.startswith("odd.zip: ")
    assert "a command of 3.4e+38" in told
