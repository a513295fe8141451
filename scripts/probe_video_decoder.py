"""Does DALI's video decoder take the GOPs of a sample, joined?  As they are (Annex-B), or in a small MP4?

    python scripts/probe_video_decoder.py SHARDS [--device mixed|cpu]

Prints JSON: for each container whether the frames came, how far they are from those of FFmpeg, or the error.
Each has a process of its own, because a decoder that dislikes its input may take the process with it.
"""

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline, pipeline_def

from shards import h264
from shards.reading import ShardDataset
from shards.stream import EncodedStream

FPS = 25  # of the MP4; no more than a time stamp for each frame


@dataclass(frozen=True)
class Container:
    """A way to hand a stream to DALI.

    Attributes:
        wrap: makes a file of it.
        build_index: whether DALI makes an index of its frames first; it needs time stamps, which Annex-B has
            not.
    """

    wrap: Callable[[bytes], bytes]
    build_index: bool


def join_gops(stream: EncodedStream, frames: Sequence[int]) -> tuple[bytes, np.ndarray]:
    """The GOPs that hold `frames`, one after another, and where the frames stand in them, (T,) int32."""
    frames_ = np.asarray(frames, np.int32)
    units = np.unique(frames_ // stream.frames_per_unit)
    data = b"".join(stream.data[start : start + length] for start, length in stream.units[units].tolist())
    place = np.searchsorted(units, frames_ // stream.frames_per_unit)
    return data, (place * stream.frames_per_unit + frames_ % stream.frames_per_unit).astype(np.int32)


def to_mp4(data: bytes, codec: str = "h264") -> bytes:
    """An elementary stream in an MP4 of its own, with a time stamp for every picture."""
    target = io.BytesIO()
    with av.open(io.BytesIO(data), format=codec) as source, av.open(target, "w", format="mp4") as container:
        stream = source.streams.video[0]
        out = container.add_stream_from_template(stream)
        number = 0
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = out
                packet.pts = packet.dts = number * out.time_base.denominator // FPS
                packet.time_base = out.time_base
                container.mux(packet)
                number += 1
    return target.getvalue()


CONTAINERS = {
    "annexb": Container(bytes, build_index=True),
    "annexb without an index": Container(bytes, build_index=False),
    "mp4": Container(to_mp4, build_index=True),
}


def build_video_decoding(
    batches: Sequence[tuple[list[np.ndarray], list[np.ndarray]]],
    *,
    build_index: bool,
    device: str,
    num_threads: int,
    prefetch: int,
) -> Pipeline:
    """A pipeline that decodes the batches (streams, and the frames wanted of each) in turn, for ever."""
    turn = {"streams": 0, "frames": 0}

    def next_of(name: str, column: int) -> list[np.ndarray]:
        turn[name] += 1
        return batches[(turn[name] - 1) % len(batches)][column]

    @pipeline_def
    def decode_only():
        kinds = types.DALIDataType
        streams = fn.external_source(source=lambda: next_of("streams", 0), batch=True, dtype=kinds.UINT8)
        frames = fn.external_source(source=lambda: next_of("frames", 1), batch=True, dtype=kinds.INT32)
        return fn.decoders.video(streams, frames=frames, device=device, build_index=build_index)

    pipeline = decode_only(
        batch_size=max(len(streams) for streams, _ in batches),
        num_threads=num_threads,
        device_id=0 if device == "mixed" else None,
        prefetch_queue_depth=prefetch,
    )
    pipeline.build()
    return pipeline


def probe(
    streams: list[bytes],
    frames: list[np.ndarray],
    expected: list[np.ndarray],
    device: str,
    *,
    build_index: bool = True,
) -> dict[str, Any]:
    """Decode once; expected: (T, H, W, 3) uint8 each, what another decoder makes of them."""
    arrays = [np.frombuffer(stream, np.uint8) for stream in streams]
    options = {"build_index": build_index, "device": device, "num_threads": 2, "prefetch": 1}
    try:
        pipeline = build_video_decoding([(arrays, frames)], **options)
        (outputs,) = pipeline.run()
        outputs = outputs.as_cpu() if device == "mixed" else outputs
        found = [np.asarray(outputs.at(i)) for i in range(len(streams))]
    except RuntimeError as error:
        message = str(error).partition("Stacktrace")[0].rpartition("encountered:")[2]
        return {"accepted": False, "error": " ".join(message.split())[:400]}
    shapes = [clip.shape for clip in found]
    if shapes != [clip.shape for clip in expected]:
        return {
            "accepted": False,
            "error": f"shapes {shapes[:2]}, expected {[c.shape for c in expected][:2]}",
        }
    levels = [np.abs(a.astype(int) - b) for a, b in zip(found, expected, strict=True)]
    return {
        "accepted": True,
        "max_levels": int(max(level.max() for level in levels)),
        "mean_levels": float(np.mean([level.mean() for level in levels])),
    }


def ask(directory: Path, name: str, device: str) -> dict[str, Any]:
    """What DALI makes of a few samples, wrapped in this container."""
    dataset = ShardDataset(directory)
    streams, positions, expected = [], [], []
    for key, _ in dataset.keys_and_names()[:4]:
        stream = dataset.read_sample(key).stream
        frames = np.linspace(0, stream.num_frames - 1, 5).astype(int).tolist()
        data, where = join_gops(stream, frames)
        streams.append(data)
        positions.append(where)
        expected.append(h264.decode_frames(stream.data, stream.units, stream.frames_per_unit, frames))
    container = CONTAINERS[name]
    start = time.perf_counter()
    wrapped = [container.wrap(stream) for stream in streams]
    wrap_ms = (time.perf_counter() - start) / len(streams) * 1000
    answer = probe(wrapped, positions, expected, device, build_index=container.build_index)
    return answer | {"wrap_ms": wrap_ms}


def ask_apart(directory: Path, name: str, device: str, *, limit_s: float = 60.0) -> dict[str, Any]:
    """`ask` in a process of its own: a crash or a hang is an answer, too."""
    command = [sys.executable, __file__, str(directory), "--device", device, "--container", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"accepted": False, "error": f"no answer within {limit_s:g} s"}
    if done.returncode:
        error = f"the process ended with {done.returncode}: {' '.join(done.stderr.split())[-200:]}"
        return {"accepted": False, "error": error}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description="Does DALI's video decoder take joined GOPs from memory?")
    parser.add_argument("shards", type=Path, help="a directory of h264 shards")
    parser.add_argument("--device", choices=("mixed", "cpu"), default="mixed")
    parser.add_argument("--container", choices=tuple(CONTAINERS), help="this one alone, in this process")
    args = parser.parse_args()
    if args.container:
        print(json.dumps(ask(args.shards, args.container, args.device)))
    else:
        print(json.dumps({name: ask_apart(args.shards, name, args.device) for name in CONTAINERS}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
