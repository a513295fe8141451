"""What this machine has for training and what it lacks, each with the remedy.

    python scripts/doctor.py [--shards data/k400/train]

Exit code 0: training runs on what is here; without a GPU that is the CPU, and the last line says so.
1: it does not run, or a GPU is here that it could not use.
"""

import argparse
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
import torch.cuda.nccl
import torch.distributed

from shards.manifest import ShardError, load_manifest
from shards.pool import core_share
from support import gpu_library
from support.disk_speed import DiskSpeed, measure_disk, read_ahead_file

DALI_BUILDS = {"nvidia-dali-cuda120": 12_000, "nvidia-dali-cuda130": 13_000}
"""DALI's distributions, and the oldest CUDA version of a driver that each runs on, as drivers number it."""
INSTALL_FOR = {"nvidia-dali-cuda120": ".[cuda12]", "nvidia-dali-cuda130": ".[cuda13]"}
CORES_PER_GPU = 8
MIN_OPEN_FILES = 4096
MAX_READ_AHEAD_KB = 512
MIN_SHM_BYTES_PER_GPU = 2**28
VIDEO_CAPABILITY = "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        name, found: what was looked at, and what is there.
        status: ok, warning (slower, or something is not possible) or missing.
        remedy: what to do about it; empty where nothing needs doing.
        stops_training: training would not run, or not where it should.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    found: str
    remedy: str = ""
    stops_training: bool = False


def check_driver(version: int | None, kernel_module: str | None) -> Finding:
    """`version`: the newest CUDA that the driver runs, 1000 * major + 10 * minor; None: no driver library."""
    if version is not None:
        module = f", kernel module {kernel_module}" if kernel_module else ""
        return Finding("NVIDIA driver", "ok", f"runs CUDA up to {cuda_name(version)}{module}")
    if kernel_module:
        return Finding(
            "NVIDIA driver",
            "missing",
            f"kernel module {kernel_module}, but libcuda.so.1 cannot be loaded",
            "in a container: start it with --gpus all; else reinstall the driver",
            stops_training=True,
        )
    return Finding(
        "NVIDIA driver", "missing", "none", "for a GPU: install NVIDIA's driver, version 525 or newer"
    )


def check_torch(version: str, cuda: str | None, *, sees_gpu: bool, driver: int | None) -> Finding:
    """Whether torch can use the GPU that the driver promises; cuda: what torch was built for, as "13.0"."""
    found = f"{version}, built for {f'CUDA {cuda}' if cuda else 'the CPU'}"
    if driver is None or sees_gpu:
        return Finding("PyTorch", "ok", found)
    if cuda is None:
        remedy = "install torch's CUDA build"
    elif cuda_number(cuda) // 1000 > driver // 1000:
        remedy = f"the driver ends at CUDA {cuda_name(driver)}: update it, or take torch for an older CUDA"
    else:
        remedy = "see `nvidia-smi`; is CUDA_VISIBLE_DEVICES set, does the container have --gpus all?"
    return Finding("PyTorch", "missing", f"{found}; sees no GPU", remedy, stops_training=True)


def check_dali(installed: dict[str, str], driver: int | None) -> Finding:
    """installed: version by name, of DALI's distributions that are there."""
    found = ", ".join(f"{name} {version}" for name, version in installed.items()) or "none"
    if len(installed) != 1:
        remedy = "keep one of the two" if installed else "pip install -e '.[cuda12]'"
        return Finding("DALI", "missing", found, remedy, stops_training=True)
    (name,) = installed
    if driver is not None and driver < DALI_BUILDS[name]:
        fitting = [other for other, oldest in DALI_BUILDS.items() if oldest <= driver]
        remedy = (
            f"pip install -e '{INSTALL_FOR[fitting[-1]]}' and uninstall it"
            if fitting
            else "update the driver"
        )
        found = f"{found}, needs a driver for CUDA {cuda_name(DALI_BUILDS[name])}"
        return Finding("DALI", "missing", found, remedy, stops_training=True)
    return Finding("DALI", "ok", found)


def check_video_library(loads: bool) -> Finding:
    if loads:
        return Finding("libnvcuvid", "ok", "loads: video engines and JPEG engines can be used")
    return Finding(
        "libnvcuvid",
        "warning",
        "cannot be loaded: neither video engines nor JPEG engines can be used",
        VIDEO_CAPABILITY,
    )


def check_video_codecs(codecs: list[gpu_library.VideoCodec]) -> Finding:
    """What NVDEC decodes, with the smallest size of each."""
    if not codecs:
        return Finding("NVDEC", "warning", "tells of no codec", "H.264 shards are decoded by FFmpeg then")
    sizes = ", ".join(f"{codec.name} from {codec.min_width}x{codec.min_height}" for codec in codecs)
    return Finding("NVDEC", "ok", f"{codecs[0].num_engines} engines; {sizes}")


def check_jpeg_engines(engines: tuple[int, int] | None, *, usable: bool) -> Finding:
    """engines: how many, and cores in each; None where nvJPEG does not tell.  usable: there is a decoder."""
    if engines is None:
        return Finding(
            "JPEG engines",
            "warning",
            "nvJPEG could not be asked",
            "see `pip list`: nvidia-nvjpeg-cu12, of CUDA 13 nvidia-nvjpeg",
        )
    if engines[0] == 0:
        return Finding("JPEG engines", "ok", "none in this GPU: its cores decode JPEG")
    found = f"{engines[0]}, of {engines[1]} cores"
    if not usable:
        found += ", but no decoder for them can be made: the GPU's cores decode JPEG instead, slower"
        return Finding("JPEG engines", "warning", found, VIDEO_CAPABILITY)
    return Finding("JPEG engines", "ok", found)


def check_cores(num_cores: float, num_gpus: int) -> Finding:
    found = f"{num_cores:g}" + (f", {num_cores / num_gpus:g} a GPU" if num_gpus else "")
    if num_cores < CORES_PER_GPU * num_gpus:
        remedy = f"{CORES_PER_GPU} a GPU keep it fed; docs/benchmarks.md has the arithmetic"
        return Finding("CPU cores", "warning", found, remedy)
    return Finding("CPU cores", "ok", found)


def check_memory(available_bytes: int) -> Finding:
    found = f"{available_bytes / 1e9:.1f} GB available"
    if available_bytes < 4e9:
        return Finding(
            "memory", "warning", found, "lower data.train.batch_size, data.prefetch or shuffle_buffer"
        )
    return Finding("memory", "ok", found)


def check_shm(size_bytes: int, num_gpus: int) -> Finding:
    found = f"{size_bytes / 1e9:.2f} GB"
    if num_gpus > 1 and size_bytes < MIN_SHM_BYTES_PER_GPU * num_gpus:
        return Finding(
            "/dev/shm", "warning", found, "NCCL needs more: start the container with --shm-size 8g"
        )
    return Finding("/dev/shm", "ok", found)


def check_open_files(hard_limit: int) -> Finding:
    """A rank opens every shard, and raises its soft limit itself."""
    if 0 <= hard_limit < MIN_OPEN_FILES:
        remedy = f"ulimit -Hn {MIN_OPEN_FILES}: a rank opens every shard, 960 of Kinetics-400"
        return Finding("open files", "warning", f"{hard_limit}", remedy)
    return Finding("open files", "ok", "unlimited" if hard_limit < 0 else f"{hard_limit}")


def check_nccl(version: str | None, num_gpus: int) -> Finding:
    if version:
        return Finding("NCCL", "ok", version)
    stops = num_gpus > 1
    return Finding(
        "NCCL",
        "missing",
        "torch has none",
        "install torch's CUDA build" if stops else "",
        stops_training=stops,
    )


def check_read_ahead(path: Path | None) -> Finding:
    """path: the kernel's setting for the disk; None where the disk has none, as network storage."""
    if path is None:
        return Finding("read-ahead", "ok", "not a local block device")
    kilobytes = int(path.read_text())
    if kilobytes > MAX_READ_AHEAD_KB:
        remedy = f"echo 128 | sudo tee {path}; docs/log.md says why"
        return Finding(
            "read-ahead", "warning", f"{kilobytes} KB: whole videos are read for a few frames", remedy
        )
    return Finding("read-ahead", "ok", f"{kilobytes} KB")


def check_disk(speed: DiskSpeed, num_segments: int = 3) -> Finding:
    clips = speed.reads_per_s / num_segments
    found = (
        f"{speed.reads_per_s:.0f} cold units/s of {speed.bytes_per_read / 1e3:.1f} KB "
        f"({speed.asked_bytes_per_s / 1e6:.0f} MB/s): {clips:.0f} clips/s of {num_segments} frames"
    )
    if speed.device_bytes_per_s is not None:
        found += f"; the disk moved {speed.device_bytes_per_s / speed.asked_bytes_per_s:.1f} times that"
    return Finding("disk", "ok", found)


def cuda_name(number: int) -> str:
    """12040 to "12.4"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def cuda_number(name: str) -> int:
    """ "12.4" to 12040."""
    major, minor = name.split(".")[:2]
    return 1000 * int(major) + 10 * int(minor)


def available_memory_bytes() -> int:
    """Memory that is free or can be freed, within the container's limit."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return available


def examine_gpus(num_gpus: int) -> Iterator[Finding]:
    """The GPUs that torch sees, and what decodes on the first."""
    for index in range(num_gpus):
        gpu = torch.cuda.get_device_properties(index)
        found = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, compute capability {gpu.major}.{gpu.minor}"
        if gpu.major >= 8:
            yield Finding(f"GPU {index}", "ok", found)
        else:
            yield Finding(f"GPU {index}", "warning", found, "bf16 is slow here: train.amp=false")
    has_video = gpu_library.loads("libnvcuvid.so.1")
    yield check_video_library(has_video)
    if has_video:
        yield check_video_codecs(gpu_library.video_codecs())
    yield check_jpeg_engines(gpu_library.jpeg_engines(), usable=gpu_library.jpeg_engines_decode())


def examine(shards: Path | None) -> Iterator[Finding]:
    """Everything, in the order of the table."""
    driver, num_gpus = gpu_library.driver_version(), torch.cuda.device_count()
    yield check_driver(driver, gpu_library.kernel_module_version())
    sees_gpu = torch.cuda.is_available()
    yield check_torch(torch.__version__, torch.version.cuda, sees_gpu=sees_gpu, driver=driver)
    names = {dist.name.lower(): dist.version for dist in metadata.distributions()}
    yield check_dali({name: names[name] for name in DALI_BUILDS if name in names}, driver)
    if sees_gpu:
        yield from examine_gpus(num_gpus)
        version = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else None
        yield check_nccl(".".join(map(str, version)) if version else None, num_gpus)
    else:
        yield Finding("GPU", "missing", "none; libnvcuvid, NVDEC, JPEG engines and NCCL were not looked at")
    yield check_cores(core_share(), num_gpus)
    yield check_memory(available_memory_bytes())
    if Path("/dev/shm").exists():
        yield check_shm(shutil.disk_usage("/dev/shm").total, num_gpus)
    yield check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    if shards is not None:
        yield from examine_shards(shards)


def examine_shards(directory: Path) -> Iterator[Finding]:
    """The disk under a directory of shards."""
    try:
        manifest = load_manifest(directory)
    except ShardError as error:
        yield Finding("shards", "missing", str(error), stops_training=True)
        return
    yield Finding("shards", "ok", f"{manifest.num_samples} videos, {manifest.size_bytes / 1e9:.3g} GB")
    yield check_read_ahead(read_ahead_file(directory))
    yield check_disk(measure_disk(directory, manifest))


def print_table(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.name:{width}}  {finding.status:7}  {finding.found}")
        if finding.remedy:
            print(f"{'':{width}}           -> {finding.remedy}")


def verdict(findings: list[Finding], *, sees_gpu: bool) -> str:
    """The last line: what training would do here."""
    stops = [finding.name for finding in findings if finding.stops_training]
    if stops:
        return f"training would not run as it should: {', '.join(stops)}"
    return "training runs on the GPU" if sees_gpu else "no usable GPU: training runs on the CPU, in fp32"


def main() -> int:
    parser = argparse.ArgumentParser(description="What this machine has for training, and what it lacks.")
    parser.add_argument(
        "--shards", type=Path, metavar="DIR", help="measure the disk under these shards as well"
    )
    args = parser.parse_args()
    findings = list(examine(args.shards))
    print_table(findings)
    print(verdict(findings, sees_gpu=torch.cuda.is_available()))
    return int(any(finding.stops_training for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
