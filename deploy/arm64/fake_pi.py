"""The files by which programs tell a Raspberry Pi 5's processor: four Cortex-A76 cores.

Under user emulation `/proc` and `/sys` are the host's, and native libraries read there what their kernels may use
(XNNPACK's cpuinfo ends the process when the files contradict the instruction set).

The implementer and part numbers are Arm's MIDR_EL1 of Cortex-A76 r4p1 (Technical Reference Manual, 3.2.97: implementer
0x41, part 0xD0B); the feature names are those of the kernel's arch/arm64/kernel/cpuinfo.c.
"""

from __future__ import annotations

from pathlib import Path

CORES = 4
MIDR = 0x414FD0B1
FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)


def cpuinfo() -> str:
    """`/proc/cpuinfo`."""
    return "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {FEATURES}\nCPU implementer\t: 0x{MIDR >> 24:02x}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x{MIDR >> 20 & 15:x}\nCPU part\t: 0x{MIDR >> 4 & 0xFFF:03x}\n"
        f"CPU revision\t: {MIDR & 15}\n\n"
        for core in range(CORES)
    )


def sys_cpu() -> dict[str, str]:
    """Files below `/sys/devices/system/cpu`."""
    everyone = f"0-{CORES - 1}"
    files = {"present": everyone, "possible": everyone, "online": everyone, "kernel_max": "7"}
    for core in range(CORES):
        files |= {
            f"cpu{core}/regs/identification/midr_el1": f"0x{MIDR:016x}",
            f"cpu{core}/cpufreq/cpuinfo_min_freq": "1500000",
            f"cpu{core}/cpufreq/cpuinfo_max_freq": "2400000",
            f"cpu{core}/topology/core_id": str(core),
            f"cpu{core}/topology/physical_package_id": "0",
            f"cpu{core}/topology/core_siblings_list": everyone,
            f"cpu{core}/topology/package_cpus_list": everyone,
            f"cpu{core}/topology/thread_siblings_list": str(core),
        }
    return files


def write(folder: Path) -> tuple[Path, Path]:
    """Write both below `folder`. Returns what is to be mounted over `/proc/cpuinfo` and `/sys/devices/system/cpu`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpuinfo").write_text(cpuinfo())
    for name, text in sys_cpu().items():
        path = folder / "cpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder / "cpuinfo", folder / "cpu"
