"""What a measurement was made on: hardware, versions, commit and date, as a benchmark has to state them."""

import datetime
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from shards.pool import core_share

PACKAGES = ("torch", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "av", "numpy")


def describe_machine(*more_packages: str) -> dict[str, str | float | dict[str, str] | None]:
    """Hardware, package versions, commit and UTC date of this process, ready for JSON.

    more_packages: distributions to report beside PACKAGES; one that is not installed is left out.
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_name(),
        "num_cores": core_share(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": _versions(PACKAGES + more_packages),
        "commit": _commit(),
    }


def _cpu_name() -> str:
    """The processor's own name where Linux tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {dist.name: dist.version for dist in metadata.distributions()}
    return {name: found[name] for name in packages if name in found}


def _commit() -> str | None:
    """The commit of the checkout around this file, with `-dirty` where files differ; None outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
