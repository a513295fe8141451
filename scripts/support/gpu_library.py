"""NVIDIA's libraries, asked directly: what torch and DALI do not tell.  Every question has an answer for
machines that lack the library."""

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch

_CODECS = {
    "MPEG-4": 2,
    "H.264": 4,
    "JPEG": 5,
    "HEVC": 8,
    "VP9": 10,
    "AV1": 11,
}  # cudaVideoCodec of cuviddec.h
_YUV420 = 1  # cudaVideoChromaFormat


@dataclass(frozen=True)
class VideoCodec:
    """What NVDEC decodes of 8-bit 4:2:0 video; sizes in pixels."""

    name: str
    num_engines: int
    min_width: int
    min_height: int
    max_width: int
    max_height: int


class DecodeCaps(ctypes.Structure):
    """CUVIDDECODECAPS of cuviddec.h; the first three fields are the question."""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("chroma_format", ctypes.c_int),
        ("bit_depth_minus_8", ctypes.c_uint),
        ("reserved1", ctypes.c_uint * 3),
        ("is_supported", ctypes.c_ubyte),
        ("num_engines", ctypes.c_ubyte),
        ("output_format_mask", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_macroblocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("is_histogram_supported", ctypes.c_ubyte),
        ("counter_bit_depth", ctypes.c_ubyte),
        ("max_histogram_bins", ctypes.c_ushort),
        ("reserved3", ctypes.c_uint * 10),
    )


def load(name: str) -> ctypes.CDLL | None:
    """A shared library; None where it cannot be loaded."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def loads(name: str) -> bool:
    return load(name) is not None


def driver_version() -> int | None:
    """The newest CUDA that the driver runs, as 1000 * major + 10 * minor; None without a driver library."""
    library = load("libcuda.so.1")
    version = ctypes.c_int(0)
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != 0 or version.value == 0:
        return None
    return version.value


def kernel_module_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """E.g. "580.65.06"; None where the module is not loaded."""
    if not path.exists():
        return None
    numbers = re.search(r"\b\d+\.\d+(\.\d+)?\b", path.read_text())
    return numbers.group() if numbers else "unknown"


def video_codecs() -> list[VideoCodec]:
    """The codecs of NVDEC on the current GPU; empty without libnvcuvid."""
    library = load("libnvcuvid.so.1")
    if library is None:
        return []
    torch.zeros(1, device="cuda")  # makes torch's context current, which the question needs
    found = []
    for name, number in _CODECS.items():
        caps = DecodeCaps(codec=number, chroma_format=_YUV420, bit_depth_minus_8=0)
        if library.cuvidGetDecoderCaps(ctypes.byref(caps)) == 0 and caps.is_supported:
            found.append(
                VideoCodec(
                    name=name,
                    num_engines=caps.num_engines,
                    min_width=caps.min_width,
                    min_height=caps.min_height,
                    max_width=caps.max_width,
                    max_height=caps.max_height,
                )
            )
    return found


def jpeg_engines() -> tuple[int, int] | None:
    """How many JPEG engines the current GPU has, and cores in each; None where nvJPEG does not tell."""
    for path in _nvjpeg_paths():
        library = load(path)
        if library is None or not hasattr(library, "nvjpegGetHardwareDecoderInfo"):
            continue
        handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(0), ctypes.c_uint(0)
        if library.nvjpegCreateSimple(ctypes.byref(handle)) != 0:
            continue
        status = library.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
        library.nvjpegDestroy(handle)
        if status == 0:
            return engines.value, cores.value
    return None


def jpeg_engines_decode() -> bool:
    """Whether DALI's JPEG library gets a decoder for the engines; where not, it goes without, silently.

    It needs the driver's video library, libnvcuvid.
    """
    nvimgcodec: Any = import_module("nvidia.nvimgcodec")  # one of DALI's requirements
    try:
        nvimgcodec.Decoder(backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.HW_GPU_ONLY)])
    except RuntimeError:
        return False
    return True


def _nvjpeg_paths() -> Iterator[str]:
    """nvJPEG as DALI's packages bring it, then the system's."""
    for dist in metadata.distributions():
        if dist.name.lower() in ("nvidia-nvjpeg", "nvidia-nvjpeg-cu12"):  # for CUDA 13 and 12
            for file in dist.files or ():
                if file.name.startswith("libnvjpeg.so"):
                    yield str(dist.locate_file(file))
    yield from ("libnvjpeg.so.13", "libnvjpeg.so.12")
