"""An emulated computer's disk: Debian arm64 with systemd, the package in an environment of its own, and what checks it.

Debian's packages are unpacked, not configured: nothing of arm64 has to run on this computer. What their scripts would
have made (accounts, the environment's interpreter, compiled modules) is made here.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
PYTHON = "python3.11"
PLATFORM = "aarch64-manylinux_2_36"
"""Debian 12: its Python, its C library."""
VENV = Path("opt/continuonos/venv")
CHECK = Path("opt/check")
"""Where what runs inside lies, with its unit."""
GUEST = ("vm_guest.py", "vm_parts.py", "vm_walls.py", "vm_machine.py", "vm_probe.py")
"""What runs inside."""
EXTRAS = ("train", "litert", "serve", "pi")

_PACKAGES = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "libc-bin", "login"),
    *("libpam-modules", "libpam-runtime", "mount", "passwd", "procps", "sed", "util-linux", "kmod"),
    *("systemd", "systemd-sysv", "udev", PYTHON, "python3-venv", "busybox-static", "linux-image-arm64"),
    *("libstdc++6", "libgomp1"),  # what wheels find on any Debian that has more than its essential packages
)
GROUPS = ("input", "kvm", "render", "sgx", "i2c", "gpio")
"""Debian's udev makes the first four, Raspberry Pi OS (raspberrypi-sys-mods) the last two."""
_LATE = "/(torch|torchgen|functorch|sympy|mpmath|networkx|transformers|peft|accelerate|matplotlib|fontTools|test)/"
"""What no process of a resting robot loads: left as source."""
_PAM = ("auth", "account", "password", "session")
_DISK_DRIVERS = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
_INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do /bin/busybox sleep 0.1; tries=$((tries + 1)); done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox poweroff -f
/bin/busybox umount /proc
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""
_CHECK_UNIT = f"""\
[Unit]
Description=Checks of the units
After=basic.target

[Service]
Type=exec
ExecStart=/{VENV}/bin/python -u /{CHECK}/vm_guest.py
StandardOutput=journal
StandardError=journal
TimeoutStartSec=infinity
ExecStopPost=/bin/systemctl poweroff --force
"""


class BuildError(Exception):
    """The disk could not be made; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Built:
    """What qemu is given."""

    kernel: Path
    initrd: Path
    disk: Path


def need_tools(which: Callable[[str], str | None] = shutil.which) -> None:
    """Raises BuildError naming what is missing."""
    packages = {
        "qemu-system-aarch64": "qemu-system-arm",
        "mmdebstrap": "mmdebstrap",
        "mkfs.ext4": "e2fsprogs",
        "depmod": "kmod",
        "cpio": "cpio",
    }
    missing = sorted(package for tool, package in packages.items() if which(tool) is None)
    words = [f"sudo apt install {' '.join(missing)}"] if missing else []
    words += [] if which("uv") else ["pip install uv"]
    if words:
        raise BuildError("tools are missing: " + "; ".join(words))


def build(tree: Path, work: Path, say: Callable[[str], None]) -> Built:
    """Make kernel, initrd and disk in `work` from the project's tree. Needs root: files of many owners.

    Raises BuildError.
    """
    if os.geteuid() != 0:
        raise BuildError("a disk holds files of many accounts: run it as root")
    need_tools()
    # Debian's part is kept between runs, as an archive that keeps owners.
    base, root = work / f"{SUITE}.tar", work / "root"
    if not base.exists():
        say(f"unpacking Debian {SUITE}, arm64")
        _debian(base)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    _run(["tar", "-xpf", str(base), "-C", str(root)])
    _accounts(root)
    version = _kernel_version(root)
    _run(["depmod", "-b", str(root), version])
    say(f"putting the package with [{','.join(EXTRAS)}] into /{VENV}")
    _environment(tree, root, work)
    _check(root)
    kernel = root / "boot" / f"vmlinuz-{version}"
    shutil.copy(kernel, work / "vmlinuz")
    _initrd(root, version, work / "initrd")
    say("writing the disk")
    disk = work / "disk.img"
    disk.unlink(missing_ok=True)
    _run(["mkfs.ext4", "-q", "-d", str(root), "-L", "robot", str(disk), "4G"])
    shutil.rmtree(root)
    return Built(work / "vmlinuz", work / "initrd", disk)


def load_order(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """Paths of modules below lib/modules/VERSION, each after those that it needs (modules.dep(5)). Names that the
    kernel has built in have none.

    A line lists what a module needs, the last to be loaded first.
    """
    needs = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[Path(path).name.removesuffix(".ko")] = [path, *rest.split()]
    order: list[str] = []
    for name in wanted:
        for path in reversed(needs.get(name, [])):
            if path not in order:
                order.append(path)
    return order


def requirements(pyproject: str, extras: Sequence[str]) -> list[str]:
    """What the package and these extras of it need, as pyproject.toml says. Raises BuildError on another extra."""
    project = tomllib.loads(pyproject)["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        if extra not in project["optional-dependencies"]:
            raise BuildError(f"pyproject.toml has no extra {extra}")
        wanted += project["optional-dependencies"][extra]
    return wanted


def _debian(base: Path) -> None:
    hooks = "/usr/share/mmdebstrap/hooks/merged-usr"
    part = base.with_suffix(".part.tar")
    _run(
        [
            *("mmdebstrap", "--quiet", "--variant=extract", "--mode=root", "--arch=arm64"),
            *(f"--hook-dir={hooks}", f"--include={','.join(_PACKAGES)}"),
            *(SUITE, str(part), "http://deb.debian.org/debian"),
        ]
    )
    part.rename(base)


def _accounts(root: Path) -> None:
    """As base-passwd's and passwd's scripts do; systemd-sysusers makes the rest when the machine starts."""
    etc, masters = root / "etc", root / "usr/share/base-passwd"
    for name in ("passwd", "group"):
        shutil.copy(masters / f"{name}.master", etc / name)
    with (etc / "group").open("a") as file:
        for number, group in enumerate(GROUPS):
            file.write(f"{group}:x:{970 + number}:\n")
    for table, shadow, rest in (("passwd", "shadow", "*:19000:0:99999:7:::"), ("group", "gshadow", "*::")):
        names = [line.partition(":")[0] for line in (etc / table).read_text().splitlines()]
        (etc / shadow).write_text("".join(f"{name}:{rest}\n" for name in names))
        (etc / shadow).chmod(0o640)
    (etc / "hostname").write_text("robot\n")
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")  # else systemd asks questions
    for kind in _PAM:
        (etc / "pam.d" / f"common-{kind}").write_text(f"{kind} required pam_unix.so\n")
    shutil.copy(etc / "pam.d/common-session", etc / "pam.d/common-session-noninteractive")
    (etc / "pam.d/other").write_text("".join(f"{kind} required pam_deny.so\n" for kind in _PAM))
    for name, target in (("run", "/run"), ("lock", "/run/lock")):
        link = root / "var" / name
        if not link.is_symlink():
            shutil.rmtree(link, ignore_errors=True)
            link.symlink_to(target)
    units = etc / "systemd/system"
    for name in ("getty.target", "systemd-logind.service"):  # nobody logs in
        (units / name).symlink_to("/dev/null")
    for name in ("proc", "sys", "run", "root", "home", "srv", "mnt", "opt"):
        (root / name).mkdir(exist_ok=True)


def _environment(tree: Path, root: Path, work: Path) -> None:
    venv = root / VENV
    site = venv / "lib" / PYTHON / "site-packages"
    site.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to(f"/usr/bin/{PYTHON}")
    (venv / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON[6:]}\n"
    )
    wanted = work / "requirements.txt"
    wanted.write_text("\n".join(requirements((tree / "pyproject.toml").read_text(), EXTRAS)) + "\n")
    into = ["--target", str(site), "--python-platform", PLATFORM, "--python-version", PYTHON[6:]]
    limits = ["--constraint", str(tree / "constraints.txt"), "--only-binary", ":all:", "--link-mode", "copy"]
    _run(["uv", "pip", "install", "--quiet", *into, *limits, "--requirement", str(wanted)])
    wheels = work / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    _run(["uv", "build", "--quiet", "--wheel", "--out-dir", str(wheels), str(tree)])
    (wheel,) = wheels.glob("*.whl")
    _run(["uv", "pip", "install", "--quiet", *into, "--no-deps", str(wheel)])
    compiler = _same_python()
    if compiler is None:  # slower to start, nothing else
        return
    for folder in (site, root / "usr/lib" / PYTHON):
        done = [
            compiler,
            "-m",
            "compileall",
            "-q",
            "-j",
            "0",
            "-s",
            str(root),
            "-p",
            "/",
            "-x",
            _LATE,
            str(folder),
        ]
        subprocess.run(
            done, stdout=subprocess.DEVNULL, check=False
        )  # some packages carry files of other Pythons


def _same_python() -> str | None:
    """An interpreter here whose compiled modules are those of the machine's."""
    if sys.version_info[:2] == (3, 11):
        assert importlib.util.MAGIC_NUMBER
        return sys.executable
    return shutil.which(PYTHON)


def _check(root: Path) -> None:
    here = Path(__file__).parent
    (root / CHECK).mkdir()
    for name in GUEST:
        shutil.copy(here / name, root / CHECK / name)
    units = root / "etc/systemd/system"
    (units / "continuonbrain-check.service").write_text(_CHECK_UNIT)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "continuonbrain-check.service").symlink_to("../continuonbrain-check.service")


def _initrd(root: Path, version: str, out: Path) -> None:
    folder = out.with_suffix(".d")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True)
    (folder / "modules").mkdir()
    shutil.copy(root / "bin/busybox", folder / "bin/busybox")
    modules = root / "lib/modules" / version
    order = load_order((modules / "modules.dep").read_text(), _DISK_DRIVERS)
    for path in order:
        shutil.copy(modules / path, folder / "modules")
    (folder / "modules/order").write_text("\n".join(Path(path).name for path in order) + "\n")
    (folder / "init").write_text(_INIT)
    (folder / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))) + "\n"
    with out.open("wb") as file:
        command = ["cpio", "--quiet", "-o", "-H", "newc"]
        subprocess.run(command, cwd=folder, input=names.encode(), stdout=file, check=True)
    shutil.rmtree(folder)


def _kernel_version(root: Path) -> str:
    found = sorted(path.name for path in (root / "lib/modules").iterdir())
    if not found:
        raise BuildError("Debian's archive has no kernel in it: remove it from the work folder")
    return found[-1]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise BuildError(f"{' '.join(command[:6])} ...: exit {done.returncode}\n{last}")
