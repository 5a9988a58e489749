"""Training elsewhere: real workers, gloo on CPUs, the tiny base."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import load_file

from continuonbrain.cloud.errors import BundleRefused
from continuonbrain.cloud_train.board import Board, has_board
from continuonbrain.cloud_train.errors import TrainRefused
from continuonbrain.cloud_train.train import train
from continuonbrain.model.base_identity import base_sha256
from continuonbrain.storage.adapter_version import adapter_sha256_on_disk
from continuonbrain.storage.lock import is_held

from .conftest import Enough, export, new_root, public_key
from .driving import BASE, BATCH, STEPS, Given, asked, robot_of, trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
"""Minutes where other work has the cores."""

LARGEST_DIFFERENCE = 1e-4
"""Between adapters of one and of two workers, whose numbers are summed in another order. Measured: below 1e-6."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return robot_of(tmp_path_factory.mktemp("robot"))


@pytest.fixture(scope="module")
def of_two(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two workers that nobody disturbed; one of its bundles is not there."""
    out = tmp_path_factory.mktemp("runs") / "two"
    trained(given, out, workers=2, bundles=(out.parent / "somebody.zip", given.bundle), skip_refused=True)
    return out


def weights(out: Path, folder: str = "adapter") -> dict[str, np.ndarray]:
    return load_file(out / folder / "adapter_model.safetensors")


def difference(one: Path, other: Path) -> float:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float(np.abs(a[k] - b[k]).max()) for k in a)


def test_one_and_two_workers_end_with_the_same_adapter(given: Given, of_two: Path, tmp_path: Path) -> None:
    trained(given, tmp_path / "one", workers=1)
    assert max(float(np.abs(v).max()) for k, v in weights(of_two).items() if ".lora_B." in k) > 1e-3
    assert difference(tmp_path / "one", of_two) < LARGEST_DIFFERENCE
    one, two = (json.loads((out / "metrics.json").read_bytes()) for out in (tmp_path / "one", of_two))
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-5)
    assert one["held_out_losses"] == [pytest.approx(pair, abs=1e-5) for pair in two["held_out_losses"]]


def test_what_a_run_leaves_behind(given: Given, of_two: Path) -> None:
    told = json.loads((of_two / "training.json").read_bytes())
    assert told["base_sha256"] == base_sha256(BASE)
    assert (told["rank"], told["layers"], told["steps"], told["ended"]) == (8, "top", 6, "steps")
    assert [b["episodes"] for b in told["bundles"]] == [6]
    assert told["engine"]["workers"] == 2
    assert told["engine"]["distributed"] == "MULTI_CPU"
    assert (len(told["episodes"]), len(told["held_out"])) == (5, 1)
    assert told["fit"]["how"] == "as it is"
    assert told["adapter_sha256"] == adapter_sha256_on_disk(of_two / "adapter")
    names = {p.name for p in (of_two / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "calibration.json", "card.json"}
    (refused,) = told["refused"]
    assert str(of_two.parent / "somebody.zip") in refused
    card = (of_two / "adapter" / "card.json").read_text()  # goes to robots: what lies where here stays here
    assert "somebody" not in card
    assert str(of_two.parent) not in card
    assert str(given.bundle.parent) not in card
    assert json.loads(card).items() <= told.items()
    metrics = json.loads((of_two / "metrics.json").read_bytes())
    assert [step for step, _ in metrics["held_out_losses"]] == [0, 3, 6]
    (errors,) = metrics["held_out_errors"].values()
    assert errors["base"]["steering"] > 0
    assert errors["adapter"]["steering"] > 0
    assert not (of_two / "unfinished").exists()
    again = trained(given, of_two, workers=2)  # done already
    assert again == {**told, "refused": []}  # this time all that was given is taken
    with pytest.raises(TrainRefused, match="another training"):
        trained(given, of_two, workers=2, recipe={"steps": 7})
    assert not (of_two / "unfinished").exists(), "no pictures stay behind"
    with pytest.raises(TrainRefused, match="model") as no_base:
        trained(given, of_two, base=of_two)
    assert "model/base_model of their root" in no_base.value.remedy


@pytest.mark.skipif(not has_board(), reason="TensorBoard is not installed (extra `cloud`)")
def test_the_log_is_tensorboards(of_two: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    (file,) = (of_two / "tensorboard").iterdir()
    found = [
        (value.tag, event.step)
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    assert [step for tag, step in found if tag == "train/loss"] == [1, 2, 3, 4, 5, 6]
    assert [step for tag, step in found if tag == "held_out/loss"] == [3, 6]


@pytest.mark.skipif(not has_board(), reason="TensorBoard is not installed (extra `cloud`)")
def test_steps_that_are_done_again_stand_in_the_log_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps_of(folder: Path) -> list[tuple[int, float]]:
        found = EventAccumulator(str(folder))
        found.Reload()
        return [(event.step, event.value) for event in found.Scalars("train/loss")]

    for from_step, to, loss in ((0, 5, 1.0), (2, 6, 2.0)):
        board = Board(tmp_path / "resumed", from_step=from_step)
        for step in range(from_step + 1, to + 1):
            board.add(step, train__loss=loss)
        board.close()
        time.sleep(1.1)  # a file's name is of its second
    assert steps_of(tmp_path / "resumed") == [(1, 1.0), (2, 1.0), *((n, 2.0) for n in (3, 4, 5, 6))]
    for loss in (1.0, 2.0):  # begun anew
        board = Board(tmp_path / "anew", from_step=0)
        for step in (1, 2, 3):
            board.add(step, train__loss=loss)
        board.close()
        time.sleep(1.1)
    assert steps_of(tmp_path / "anew") == [(1, 2.0), (2, 2.0), (3, 2.0)]


def workers_below(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if any("cloud_train.worker" in w for w in words):
            found.append(child)
    return found


@pytest.fixture
def command(given: Given, tmp_path: Path) -> list[str]:
    """The run that nobody disturbed (`of_two`), as a person asks for it."""
    key = tmp_path / "robot.pub"
    key.write_bytes(public_key(given.brain).to_bytes())
    return [
        sys.executable, "-m", "continuonbrain", "cloud", "train", str(given.bundle), "--base", str(BASE),
        "--key", str(key), "--workers", "2", "--steps", str(STEPS), "--batch", str(BATCH), "--reflex-steps", "0",
        "--save-every", "2", "--eval-every", "3", "--json", *(["--cpu"] if torch.accelerator.is_available() else []),
    ]  # fmt: skip


def killed_in_the_middle(command: list[str], out: Path) -> bool:
    """Whether one worker was killed between its first state and the end of the training; that took both, and the
    command said what to do."""
    run = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 200
        state, victims = out / "unfinished" / "job.state", list[psutil.Process]()
        while not state.exists():
            if len(victims) < 2:
                victims = workers_below(psutil.Process(run.pid))
            assert run.poll() is None, run.stderr.read() if run.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert len(victims) == 2
        heard_at = [c.laddr.ip for v in victims for c in v.net_connections("inet") if c.status == "LISTEN"]
        os.kill(victims[1].pid, signal.SIGKILL)
        _, said = run.communicate(timeout=200)
    finally:
        run.kill()
    if run.returncode == 0:  # it had just ended
        return False
    assert set(heard_at) <= {"127.0.0.1"}  # nobody else may hand the workers anything
    assert run.returncode == 2, said
    assert b"the same command again" in said
    assert not (out / "training.json").exists()
    assert not psutil.pid_exists(victims[0].pid) or psutil.Process(victims[0].pid).status() == "zombie"
    return True


def test_a_killed_worker_costs_no_bit_of_the_result(command: list[str], of_two: Path, tmp_path: Path) -> None:
    out = next(o for o in (tmp_path / str(i) for i in range(5)) if killed_in_the_middle(command, o))
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads((out / "metrics.json").read_bytes())["resumed_at"] < STEPS
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (out / "adapter" / name).read_bytes() == (of_two / "adapter" / name).read_bytes()
    losses = [json.loads((folder / "metrics.json").read_bytes())["losses"] for folder in (out, of_two)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS


def test_workers_end_with_whoever_started_them(command: list[str], tmp_path: Path) -> None:
    """Killed, it can end nobody; what they hold would keep the same command from going on."""
    out = tmp_path / "out"
    state, lock = out / "unfinished" / "job.state", out / "unfinished" / "job.lock"
    run = subprocess.Popen([*command, "--steps", "100000", "--out", str(out)], stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 200
        while not state.exists():
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        workers = workers_below(psutil.Process(run.pid))
        assert len(workers) == 2
        assert is_held(lock)
        run.kill()
        run.wait()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert alive == []
        assert not is_held(lock)
    finally:
        for process in (run, *workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_run_ends_alike_with_a_cache_and_without_and_in_one_pass_or_two(
    given: Given, of_two: Path, tmp_path: Path
) -> None:
    trained(given, tmp_path / "parts", recipe={"batch": 6, "accumulate": 2}, cache_mib=0)
    assert not json.loads((tmp_path / "parts" / "metrics.json").read_bytes())["cached"]
    assert json.loads((of_two / "metrics.json").read_bytes())["cached"]
    assert difference(tmp_path / "parts", of_two) < LARGEST_DIFFERENCE


@pytest.mark.long
def test_sharded_weights_give_the_same_adapter(given: Given, of_two: Path, tmp_path: Path) -> None:
    told = trained(given, tmp_path / "sharded", workers=2, sharded=True)
    assert told["engine"]["sharded"]
    assert difference(tmp_path / "sharded", of_two) < LARGEST_DIFFERENCE
    held = [
        json.loads((o / "metrics.json").read_bytes())["held_out_losses"]
        for o in (tmp_path / "sharded", of_two)
    ]
    assert held[0] == [pytest.approx(pair, abs=1e-5) for pair in held[1]]


def test_a_bundle_of_nobody_known_or_altered_is_refused_before_anything_is_unpacked(
    given: Given, tmp_path: Path
) -> None:
    stranger = new_root(tmp_path / "stranger")
    with pytest.raises(TrainRefused, match="signed with key"):
        trained(given, tmp_path / "out", keys=(public_key(stranger),))
    data = bytearray(given.bundle.read_bytes())
    data[200] ^= 1
    altered = tmp_path / "altered.zip"
    altered.write_bytes(data)
    with pytest.raises(BundleRefused):
        trained(given, tmp_path / "out", bundles=(altered,))
    with pytest.raises(BundleRefused, match="no such bundle"):
        trained(given, tmp_path / "out", bundles=(tmp_path / "nothing.zip",))
    with pytest.raises(TrainRefused, match="share passes"):
        trained(given, tmp_path / "out", workers=64)
    found = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != ".lock"]
    assert {p.relative_to(tmp_path / "out").parts[:2] for p in found} <= {("unfinished", "bundles")}


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    "what", ["train/frames.u8", "train/arrays.safetensors", "held/samples.json", "replay/frames.u8"]
)
def test_samples_that_changed_on_the_disk_are_prepared_again(given: Given, tmp_path: Path, what: str) -> None:
    said: list[str] = []

    def run() -> dict[str, bytes]:
        said.clear()
        with pytest.raises(Enough):
            train(asked(given, tmp_path / "out"), said.append)
        folder = tmp_path / "out" / "unfinished"
        return {
            str(p.relative_to(folder)): p.read_bytes()
            for name in ("train", "held", "replay")
            for p in (folder / name).iterdir()
        }

    first = run()
    assert "decoding pictures" in said
    assert run() == first
    assert "decoding pictures" not in said
    path = tmp_path / "out" / "unfinished" / what
    changed = bytearray(path.read_bytes())
    changed[-2] ^= 0x01
    path.write_bytes(changed)
    assert run() == first
    assert "are not those that were written there" in " ".join(said)


@pytest.mark.usefixtures("no_workers")
def test_one_bad_bundle_of_many_ends_a_run_unless_it_may_be_skipped(given: Given, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    data = bytearray(given.bundle.read_bytes())
    data[len(data) // 2] ^= 0x01
    bad.write_bytes(data)
    said: list[str] = []
    many = (bad, given.bundle, tmp_path / "absent.zip")
    with pytest.raises(BundleRefused):
        train(asked(given, tmp_path / "out", bundles=many), said.append)
    assert "--skip-refused" in said[-1]
    with pytest.raises(Enough):
        train(asked(given, tmp_path / "out", bundles=many, skip_refused=True), said.append)
    assert len([words for words in said if words.startswith("left out: ")]) == 2
    with pytest.raises(TrainRefused, match="none of 1 bundles is taken"):
        train(asked(given, tmp_path / "other", bundles=(bad,), skip_refused=True))


@pytest.mark.usefixtures("no_workers")
def test_what_is_no_file_is_a_bundle_that_is_refused(given: Given, tmp_path: Path) -> None:
    pipe, zero, shard = tmp_path / "pipe.zip", tmp_path / "zero.zip", tmp_path / "folder"
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    export(given.brain, shard, as_zip=False)
    (records,) = shard.rglob("*.tfrecord-*")
    records.unlink()
    os.mkfifo(records)
    odd = (pipe, zero, shard, tmp_path / ("n" * 300))
    for path in odd:
        with pytest.raises(BundleRefused) as refused:
            train(asked(given, tmp_path / "out", bundles=(given.bundle, path)))
        assert str(path) in refused.value.message
    said: list[str] = []
    with pytest.raises(Enough):
        train(asked(given, tmp_path / "out", bundles=(*odd, given.bundle), skip_refused=True), said.append)
    assert len([words for words in said if words.startswith("left out: ")]) == len(odd)


@pytest.mark.usefixtures("no_workers")
def test_a_full_disk_is_no_fault_of_a_bundle(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("continuonbrain.cloud_train.bundles._unpack", full)
    with pytest.raises(OSError, match="No space left"):
        train(asked(given, tmp_path / "out", skip_refused=True))


def test_the_samples_are_those_that_the_robot_makes_itself(given: Given, tmp_path: Path) -> None:
    from continuonbrain.cloud_train.bundles import open_bundle
    from continuonbrain.cloud_train.prepare import TRAIN, prepare
    from continuonbrain.cloud_train.sample_store import read_samples
    from continuonbrain.rlds.reader import list_episodes
    from continuonbrain.trainer.dataset import build_samples, calibrate, read_drive
    from continuonbrain.trainer.held_out import hold_out, instructions_by_name

    bundle = open_bundle(
        given.bundle,
        [public_key(given.brain)],
        base_sha256=base_sha256(BASE),
        unfinished=tmp_path / "bundles",
    )
    prepared = prepare([bundle], BASE, given.brain.config, tmp_path)
    found = read_samples(tmp_path / TRAIN)
    assert found is not None
    rules = given.brain.config.promotion
    paths = list_episodes(given.brain.layout.episodes_dir)
    drives = [read_drive(p) for p in paths]
    train, held = hold_out(
        paths,
        tail=rules.eval_tail_episodes,
        least=rules.min_eval_episodes,
        said=instructions_by_name(drives),
    )
    calibration = calibrate(drives)
    own = build_samples([d for d in drives if d.episode.path in train], calibration)
    (fitted,) = prepared.calibrations.values()
    assert fitted.steering_gain == pytest.approx(calibration.steering_gain, rel=1e-5)
    assert len(prepared.held_out) == len(held)
    assert found.instructions == own.instructions
    assert np.array_equal(found.frames, own.frames)
    assert np.array_equal(found.weights, own.weights)
    for name in ("curvature", "speed_ahead", "command", "previous"):
        assert np.allclose(getattr(found, name), getattr(own, name), atol=1e-4), (
            name
        )  # floats left it in 32 bits
    assert asked(given, tmp_path).recipe(given.brain.config, True).targets == given.brain.config.lora_layers
