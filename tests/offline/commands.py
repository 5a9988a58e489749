"""Every command of the program, as it is run on trial: in this order, on what `given.py` makes and what those before
left."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One run of a command.

    words: as on a command line; {work}, {robot}, {docked}, {other}, {tub}, {tiny}, {talking} and {adapter} stand for
        paths, a word with a star for the one path that it fits, and NAME-OF:PATH for that path's last part.
    code: how it ends; None where that depends on the machine.
    local: it listens or talks on this machine's loopback interface: that is its job.
    long: minutes.
    stop_s: it is interrupted so long after its start, or after the file `ready` is there.
    meanwhile: another command, which runs before that, and ends with 0.
    processes: at least so many Pythons belong to it.
    """

    words: str
    code: int | None = 0
    local: bool = False
    long: bool = False
    stop_s: float | None = None
    ready: str = ""
    meanwhile: str = ""
    processes: int = 1
    given: str = ""


ENTRIES = (
    Entry("init --root {work}/new --preset sim-donkey"),
    Entry("doctor --root {robot} --json"),
    Entry("pair --root {robot}", code=2),  # no code is asked for
    Entry("mode park --root {robot}", code=2),  # nothing runs
    Entry("keys new second --root {robot}"),
    Entry("keys trust {robot}/keys/public/second.pub --root {other}"),
    Entry("keys trust {robot}/keys/public/robot.pub --root {other}"),
    Entry("keys list --root {other}"),
    Entry("keys recount second --counter 3 --root {robot}"),
    Entry("episodes import-tub {tub} --root {robot}"),
    Entry("episodes list --root {robot}"),
    Entry("episodes show NAME-OF:{robot}/rlds/episodes/*-taught-0 --root {robot}"),
    Entry("episodes stats --root {robot}"),
    Entry("episodes doctor {robot}/rlds/episodes"),
    Entry("episodes render {robot}/rlds/episodes/*-taught-0 {work}/pictures"),
    Entry("episodes repair {robot}/rlds/episodes/*-taught-0 {work}/mended"),
    Entry("episodes export {robot}/rlds/episodes {work}/tfds"),
    Entry("episodes prune --root {robot}"),
    Entry("episodes share {docked} --yes"),
    Entry("adapters list --root {robot}"),
    Entry("adapters show --root {robot}"),
    Entry("adapters export current {work}/a.bundle --key robot --root {robot}"),
    Entry("adapters import {work}/a.bundle --root {other}"),
    Entry("adapters confirm --root {robot}"),
    Entry("adapters rollback --root {robot}"),
    Entry("adapters promote --root {other}", code=2),  # it has no verdict
    Entry("adapters convert {adapter} {work}/converted.safetensors --bundle {tiny}/serving/fp32"),
    Entry("cloud export --root {docked} --dry-run"),
    Entry("cloud export --root {docked} --out {work}/memory.zip"),
    Entry("cloud verify {work}/memory.zip --key {docked}/keys/public/robot.pub"),
    Entry("cloud pack-base {work}/pair/grown --key second --out {work}/grown.base --root {robot}"),
    Entry("cloud import {work}/grown.base --root {other}", code=2),  # it has that base already
    Entry("base list --root {other}"),
    Entry("base switch NAME-OF:{other}/model/bases/* --root {other}"),
    Entry("base confirm --root {other}"),
    Entry("base rollback --root {other}"),
    Entry("keys revoke second --root {other}"),
    Entry("consolidate --root {docked} --simulate-host", processes=2),
    Entry("backup list --root {docked}"),
    Entry("backup restore {docked}/backups/* --root {work}/restored"),
    Entry("calibrate --off --root {robot}", code=2),  # a simulated robot has nothing to switch off
    Entry("install --dry-run", code=None),  # refused where the checkout is below /tmp or /home
    Entry("uninstall --dry-run"),
    Entry("model show"),
    Entry("chat hello --base {talking} --json"),
    Entry(
        "serve --root {robot} --listen 127.0.0.1 --tcp 0",
        local=True,
        ready="{robot}/run/service.sock",
        meanwhile="pair --root {robot} --new",
        stop_s=0.5,
        processes=2,
    ),
    Entry(
        "run --root {work}/new --shift tape --json",
        local=True,
        ready="{work}/new/run/control.sock",
        meanwhile="mode autopilot --root {work}/new",
        stop_s=8,
        processes=6,
    ),
    # Minutes.
    Entry("model export {tiny} {work}/graphs", long=True, code=2),  # needs the converter's environment
    Entry("model export-app {talking} {work}/app.litertlm", long=True, code=2),  # likewise
    Entry("chat --base {talking}", long=True, given="hello\n"),
    Entry(
        "train --root {robot} --simulate-host --min-episodes 4 --again", long=True, code=1
    ),  # the verdict is no: so few lessons
    Entry(
        "cloud train {work}/memory.zip --key {docked}/keys/public/robot.pub --base {tiny} --out {work}/trained "
        "--rank 12 --steps 6 --batch 8 --reflex-steps 2 --workers 2 --cpu",
        local=True,
        long=True,
        processes=3,
    ),
    Entry("cloud fit {work}/trained --for {robot} --out {work}/fitted", long=True),
    Entry("cloud pack {work}/fitted {work}/fitted.bundle --key robot --root {robot}", long=True),
    Entry("model merge {tiny} {work}/merged --adapter {adapter}", long=True),
    Entry("base verdict NAME-OF:{other}/model/bases/* --root {other} --simulate-host", long=True),
    # Of those that take longer still, the first minute or two: data from the simulator, and the beginning of training.
    Entry("model build-tiny {work}/tiny --chunks 4", long=True, stop_s=60, code=130),
    Entry("model build-reflex {work}/merged", long=True, stop_s=60, code=130),
    Entry("model build-safety {work}/safety", long=True, stop_s=60, code=130),
    Entry("model build-world {work}/world", long=True, stop_s=60, code=130),
    Entry("study --out {work}/study --quick", long=True, stop_s=120, code=130),
    Entry("demo --quick --out {work}/demo", long=True, processes=2),
)
