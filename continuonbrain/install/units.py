"""The text of the systemd units. Pure.

Every process has the walls that it can live behind (systemd.exec(5)): no network (but the service, where the owner asks
for a dashboard: that listens on addresses of a private network alone), no capability, the file system
read-only but for the brain root, no device. Control alone sees devices, and may ask for a real-time priority up to 60
by its limits, without any capability (sched(7): RLIMIT_RTPRIO; getrlimit(2): RLIMIT_NICE). So does the car's watchdog
process, which it starts: the same walls, and the end of control is its end.

The processes are not ordered among each other: control stands the robot still while there is no policy, and at the end
all are told at once, so nothing delays the robot's stop.
"""

from __future__ import annotations

from dataclasses import dataclass

from continuonbrain.install.settings import CACHE_FOLDER, PRIVATE_NETWORKS, InstallSettings
from continuonbrain.loops.heartbeats import LIMITS, Limits

TARGET = "continuonbrain.target"
MADE_BY = "# Made by `continuonbrain install`; `continuonbrain uninstall` takes it away. Own settings: systemctl edit."

POLICY_STARTS = 12
"""Within ten minutes: those that came before, a switch, `probation_restarts` of the presets, and what follows."""

_DEVICES = (
    "char-i2c",  # servo and motor driver (PCA9685), battery sensor (INA219)
    "char-gpiochip",  # emergency stop
    "char-input",  # gamepad
    "char-video4linux",  # camera
    "char-media",
    "char-dma_heap",  # libcamera's buffers
)
_DRIVERS = "modprobe@i2c_dev.service modprobe@mc.service modprobe@videodev.service"
"""What gives "char-i2c", "char-media" and "char-video4linux" their numbers; fine where the kernel has none."""
_COMPILES = "not here: torch and LiteRT compile kernels while they run, into memory that is then executed."
_HARDENED = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ReadWritePaths={root}
ProtectHome=yes
PrivateTmp=yes
{network}
RestrictNamespaces=yes
RestrictSUIDSGID=yes
LockPersonality=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
KeyringMode=private
# Not RemoveIPC=: the processes share one account, and the end of one would take the others' shared memory away.
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UMask=0027
"""


_NO_NETWORK = """\
PrivateNetwork=yes
IPAddressDeny=any
RestrictAddressFamilies=AF_UNIX"""
_DASHBOARD = """\
PrivateNetwork=no
IPAddressDeny=any
IPAddressAllow={who}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"""
_LAN = f"localhost link-local {' '.join(PRIVATE_NETWORKS)}"
"""RFC 1918, RFC 4193; "link-local" is systemd's word for 169.254.0.0/16 and fe80::/64."""


@dataclass(frozen=True, slots=True)
class _Process:
    name: str
    says: str
    arguments: str
    limits: Limits
    resources: str
    own: str
    after: str = ""
    starts: int = 5
    kill_mode: str = "mixed"


_PROCESSES = (
    _Process(
        "control",
        "drives the robot and records",
        "continuonbrain.loops.control_process --root {root} --park",
        LIMITS["control"],
        resources="""\
CPUWeight=1000
IOWeight=500
Nice=-5
OOMScoreAdjust=-500
# Four times what benchmarks.process_memory finds: no model lives here, but a full recorder queue (70 MB) and a camera's
# buffers may.
MemoryMax=512M
# A page that has to come back from a disk is a late tick.
MemorySwapMax=0
LimitRTPRIO=60
LimitNICE=-10
# What was used stays in memory, programs as well; MemoryMax bounds it.
LimitMEMLOCK=infinity
RestrictRealtime=no
""",
        own="""\
# The PWM chip goes on with its last pulses when the process that set them is killed, and its watchdog process with it.
ExecStopPost=-{python} -I -m continuonbrain calibrate --off --root {root}
# numpy compiles nothing: what is writable here is never executed.
MemoryDenyWriteExecute=yes
PrivateDevices=no
DevicePolicy=closed
{devices}
""",
        # "mixed" sends SIGKILL to all that is left as soon as control is gone. The car's watchdog process, which then
        # switches the throttle off and ends, takes no other signal.
        kill_mode="control-group",
        # DeviceAllow= looks names up when the process is started: drivers that come later stay closed to it.
        after=f"Wants={_DRIVERS}\nAfter={_DRIVERS}\n",
    ),
    _Process(
        "policy",
        "decides where to drive",
        "continuonbrain.loops.policy_process --root {root}",
        LIMITS["policy"],
        # One that dies of what is on probation is started until that is taken back, and then once more.
        starts=POLICY_STARTS,
        resources="""\
CPUWeight=300
IOWeight=200
Nice=0
# The shipped base needs a tenth of a gigabyte, a Gemma 3n E2B some: a share of the computer fits whatever base it was
# bought for, and leaves control and the system theirs.
MemoryMax=70%
MemorySwapMax=0
RestrictRealtime=yes
""",
        own="# MemoryDenyWriteExecute= " + _COMPILES + "\nPrivateDevices=yes\nDevicePolicy=closed\n",
    ),
    _Process(
        "sidecar",
        "learns while the robot rests",
        "continuonbrain.loops.mid --root {root} --probation",  # there is no supervisor, whose work that is
        LIMITS["sidecar"],
        resources="""\
CPUWeight=10
IOWeight=10
IOSchedulingClass=idle
# training.nice of config.json is added to this.
Nice=5
OOMScoreAdjust=500
# One gigabyte with the shipped base (benchmarks.process_memory), three at E2B's size (benchmarks.train_memory); the
# job ends at training.max_memory_mib in order, before this ends it without. Where memory is short it goes first.
MemoryMax=70%
RestrictRealtime=yes
""",
        own="# MemoryDenyWriteExecute= " + _COMPILES + "\nPrivateDevices=yes\nDevicePolicy=closed\n",
    ),
    _Process(
        "service",
        "answers apps on a Unix socket of the brain root",
        "continuonbrain serve --root {root} --json{listens}",
        LIMITS["service"],
        resources="""\
CPUWeight=50
IOWeight=50
Nice=5
OOMScoreAdjust=300
# Engines of its own, as large as policy's.
MemoryMax=60%
RestrictRealtime=yes
""",
        own="# MemoryDenyWriteExecute= " + _COMPILES + "\nPrivateDevices=yes\nDevicePolicy=closed\n",
    ),
)


def unit_name(process: str) -> str:
    """Of "control", "policy", "sidecar" or "service"."""
    return f"continuonbrain-{process}.service"


SERVICES = tuple(unit_name(process.name) for process in _PROCESSES)


def unit_files(settings: InstallSettings) -> dict[str, str]:
    """File name -> text: the target, and a service for each process."""
    return {TARGET: _target(), **{unit_name(p.name): _service(p, settings) for p in _PROCESSES}}


def _target() -> str:
    return f"""{MADE_BY}
[Unit]
Description=ContinuonBrain: everything that a robot's brain runs

[Install]
WantedBy=multi-user.target
"""


def _service(process: _Process, settings: InstallSettings) -> str:
    root = settings.root
    own = process.own.format(
        python=settings.python,
        root=root,
        devices="\n".join(f"DeviceAllow={device} rw" for device in _DEVICES),
    )
    open_to = None if settings.listen is None or process.name != "service" else settings.listen
    arguments = process.arguments.format(root=root, listens="" if open_to is None else _listens(settings))
    network = _NO_NETWORK
    if open_to is not None:
        network = _DASHBOARD.format(who="localhost" if settings.is_own_address else _LAN)
    return f"""{MADE_BY}
[Unit]
Description=ContinuonBrain {process.name}: {process.says}
PartOf={TARGET}
RequiresMountsFor={root}
# Nothing to run before `continuonbrain init`.
ConditionPathExists={root}/config.json
# What a restart does not mend waits for a person: journalctl -u {unit_name(process.name)}
StartLimitIntervalSec=600
StartLimitBurst={process.starts}
{process.after}
[Service]
Type=notify
NotifyAccess=main
# -X faulthandler: what a process that the watchdog ends was doing stands in the journal.
# -I: no module is taken from the working folder, which the process may write, nor from a person's own settings.
ExecStart={settings.python} -I -u -X faulthandler -m {arguments}
User={settings.user}
Group={settings.user}
WorkingDirectory={root}
CacheDirectory={CACHE_FOLDER.name}
CacheDirectoryMode=0750
Environment=HOME={CACHE_FOLDER} XDG_CACHE_HOME={CACHE_FOLDER} HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
SyslogIdentifier=continuonbrain-{process.name}
Restart=on-failure
RestartSec=2
WatchdogSec={process.limits.silent_s:g}
TimeoutStartSec={process.limits.start_s:g}
TimeoutStopSec={process.limits.stop_s:g}
KillMode={process.kill_mode}
LimitCORE=0

{process.resources}
{_HARDENED.format(root=root, network=network)}{own}
[Install]
WantedBy={TARGET}
"""


def _listens(settings: InstallSettings) -> str:
    # On this computer alone, whoever can reach it has an account here: no pairing, as with `continuonbrain run`.
    return f" --tcp {settings.port}" + ("" if settings.is_own_address else f" --listen {settings.listen}")
