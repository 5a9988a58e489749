"""A drive for a script: policy and control process as children, watched through their files and sockets.

    with DriveSession(layout, shift="tape", track_seed=9001, seed=0, instruction="drive") as session:
        session.instruct("keep left")
        session.wait_for_adapter(sha256, timeout_s=15)
        report = session.stop()

Real processes, as on a robot. However the block is left, no child stays behind.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from continuonbrain.errors import BrainError
from continuonbrain.loops.child_process import ChildProcess, end_together
from continuonbrain.loops.control_status import CONTROL_REPORT_NAME, CONTROL_SOCKET_NAME, CONTROL_STATUS_NAME
from continuonbrain.loops.loop_report import FastReport
from continuonbrain.loops.wire import WireError, connect_unix, receive, send
from continuonbrain.storage.layout import BrainLayout

POLICY_MODULE = "continuonbrain.loops.policy_process"
CONTROL_MODULE = "continuonbrain.loops.control_process"
_POLL_S = 0.05
_END_TIMEOUT_S = 8.0


class DriveError(BrainError):
    """The drive could not be started, or one of its processes ended."""


def read_status(layout: BrainLayout) -> dict[str, Any]:
    """`run/control.json` as it is; {} while there is none."""
    try:
        value = json.loads((layout.run_dir / CONTROL_STATUS_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def command_control(
    layout: BrainLayout,
    command: Mapping[str, object],
    *,
    timeout_s: float = 2.0,
    asked_s: float | None = None,
) -> str:
    """Send a command to the control process (see `control_commands`); returns what it adds to its yes.

    asked_s: when a person asked for it, monotonic seconds; None is now. The timeout begins there.

    Raises:
        DriveError: no control process answers, or it says no; or the command waited until its time was over.
    """
    path = layout.run_dir / CONTROL_SOCKET_NAME
    # What is told as refused must not happen after all when a process that hung goes on.
    asked_s = time.monotonic() if asked_s is None else asked_s
    until_s = asked_s + timeout_s
    left_s = until_s - time.monotonic()
    if left_s <= 0.0:
        words = f"{command.get('type')!r} waited for more than {timeout_s:g} s and was not told any more"
        raise DriveError(f"the control process does not answer: {words}", remedy="ask again")
    try:
        with contextlib.closing(connect_unix(path, left_s)) as sock:
            send(sock, {**command, "asked_s": asked_s, "until_s": until_s}, timeout_s=left_s)
            answer, _ = receive(sock, left_s)
    except WireError as error:
        raise DriveError(
            f"the control process does not answer: {error.message}", remedy=error.remedy
        ) from error
    detail = str(answer.get("detail", ""))
    if answer.get("ok") is not True:
        raise DriveError(f"the control process refuses {command.get('type')!r}: {detail}")
    return detail


class DriveSession:
    """One drive of the simulated robot.

    Args:
        layout: the brain root; it must have a base model.
        shift: how the robot differs; None as config.json says.
        track_seed, seed: which track; noise of the world.
        instruction: what the robot is told at first.
        env: added to the children's environment.
        decision_time_s: imposed on each decision; None as config.json says.
        record: write the drive as episodes.
        start_timeout_s: until the first decision has been followed (loading torch takes seconds).
        policy_module: what serves the policy socket; for tests.
    """

    def __init__(
        self,
        layout: BrainLayout,
        *,
        shift: str | None = None,
        track_seed: int = 9001,
        seed: int = 0,
        instruction: str = "drive",
        env: Mapping[str, str] | None = None,
        decision_time_s: float | None = None,
        record: bool = True,
        start_timeout_s: float = 90.0,
        policy_module: str = POLICY_MODULE,
    ) -> None:
        self.layout = layout
        self._environment = dict(env or {})
        self._policy_module = policy_module
        root = ["--root", str(layout.root)]
        self._policy_arguments = [*root]
        if decision_time_s is not None:
            self._policy_arguments += ["--decision-time", str(decision_time_s)]
        self._control_arguments = [*root, "--track", str(track_seed), "--seed", str(seed)]
        self._control_arguments += ["--instruction", instruction]
        if shift is not None:
            self._control_arguments += ["--shift", shift]
        if not record:
            self._control_arguments += ["--no-record"]
        self._start_timeout_s = start_timeout_s
        self.policy: ChildProcess | None = None
        self.control: ChildProcess | None = None

    def start_policy(self) -> ChildProcess:
        """Start the policy process (again): a control process that drives finds it by itself."""
        self.policy = self._child("policy", self._policy_module, self._policy_arguments)
        return self.policy

    def __enter__(self) -> DriveSession:
        try:
            self.start_policy()
            self.control = self._child("control", CONTROL_MODULE, self._control_arguments)
            self._wait(
                lambda status: int(status.get("chunks") or 0) > 0,
                self._start_timeout_s,
                "no decision was followed",
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def status(self) -> dict[str, Any]:
        """The newest `run/control.json` of this drive; {} before the first.

        Raises `DriveError` with the end of its log when the control process has ended by itself.
        """
        if self.control is not None and self.control.exit_code is not None:
            raise _ended(self.control)
        status = read_status(self.layout)
        return status if self.control is not None and status.get("pid") == self.control.pid else {}

    def instruct(self, text: str) -> None:
        """Tell the robot something else. Raises `DriveError` when it is not taken."""
        command_control(self.layout, {"type": "instruct", "instruction": text})

    def wait_for_adapter(self, sha256: str, timeout_s: float) -> dict[str, Any]:
        """Wait until the robot follows a path of this adapter ("" is the base); returns that status.

        Raises `DriveError` when it does not come to that.
        """
        what = f"adapter {sha256[:12] or 'none (base alone)'} does not drive"
        return self._wait(lambda status: status.get("adapter_sha256") == sha256, timeout_s, what)

    def stop(self) -> FastReport:
        """End the drive; what the control loop says about it. Raises `DriveError` when it left no report."""
        control = self.control
        if control is None:
            raise DriveError("the drive has not been started", remedy="use it in a with block")
        self._end()
        if control.exit_code != 0:
            raise _ended(control)
        return FastReport.from_file(self.layout.run_dir / CONTROL_REPORT_NAME)

    def _child(self, name: str, module: str, arguments: list[str]) -> ChildProcess:
        return ChildProcess(
            name,
            module,
            arguments,
            log_path=self.layout.log_dir / f"{name}.log",
            environment=self._environment,
        )

    def _wait(self, ready: Any, timeout_s: float, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status()
            if status and ready(status):
                return status
            if self.policy is not None and self.policy.exit_code is not None:
                raise _ended(self.policy)
            if time.monotonic() >= deadline:
                policy = status.get("policy", {})
                said = policy.get("refusal") or policy.get("problem") or ""
                logs = [c for c in (self.policy, self.control) if c is not None]
                tails = "\n".join(f"{c.log_path}: {c.log_tail()[-800:]}" for c in logs)
                raise DriveError(f"{what} within {timeout_s:g} s; {said}\n{tails}".strip())
            time.sleep(_POLL_S)

    def _end(self) -> None:
        # Control first: it stops the robot and closes its recording while the policy still answers.
        if self.control is not None:
            self.control.end(_END_TIMEOUT_S)
        if self.policy is not None:
            end_together([self.policy], _END_TIMEOUT_S)


def _ended(child: ChildProcess) -> DriveError:
    return DriveError(
        f"the {child.name} process ended (exit {child.exit_code}): {child.log_tail()[-1500:]}",
        remedy=f"see {child.log_path}",
    )
