"""A sample as the members of a tar: what packing writes, and what reading makes of it."""

import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards import h264, jpeg
from shards.stream import Codec, EncodedStream, VideoError
from shards.wording import counted

META_FIELDS = (
    "sample_id",
    "num_frames",
    "width",
    "height",
    "padded_height",
    "height_offset",
    "frames_per_unit",
)
STREAM_MEMBERS: tuple[Codec, ...] = (
    "mjpeg",
    "h264",
)  # named like the codec, and last in a sample: the small members lie together
SMALL_MEMBERS = ("meta.npy", "frames.npy", "parts.npy", "head", "label.npy", "cls", "json")
MAX_STACK_PIXELS = 2**21  # of frames decoded at once: 6 MB of RGB; more only costs fresh memory


@dataclass(frozen=True)
class Sample:
    """One packed video.

    Attributes:
        sample_id: position in the shuffled list.
        labels: class ids, at least one.
        stream: the encoded frames.
        info: the `json` member.
        parts: of an untrimmed video, packed as parts one after another: (P, 3) int32, first frame, number of
            frames and whether the part is a positive (1 or 0), the positive ones first. None for others.
    """

    sample_id: int
    labels: tuple[int, ...]
    stream: EncodedStream
    info: dict[str, Any]
    parts: np.ndarray | None = None

    @property
    def key(self) -> str:
        return sample_key(self.sample_id)

    def decode(self, frame_indices: list[int]) -> np.ndarray:
        """(len(frame_indices), height, width, channels) uint8 frames, through the same path as in training.

        3 channels are RGB; 2 are optical flow, x and y.

        Raises:
            VideoError: they cannot be decoded, or not to the size that `stream` states.
        """
        stream = self.stream
        if stream.codec == "mjpeg":
            return jpeg.decode_pictures(stream, frame_indices)
        frames = h264.decode_frames(stream.data, stream.units, stream.frames_per_unit, frame_indices)
        coded = (stream.padded_height, stream.width + stream.width % 2)
        if frames.shape[1:3] != coded:
            raise VideoError(f"its H.264 frames decode to {frames.shape[1:3]}, expected {coded}")
        return frames[:, : stream.height, : stream.width]

    def iter_stacks(self) -> Iterator[np.ndarray]:
        """Decode all frames, in stacks that fit into one stitched picture and little memory."""
        stream = self.stream
        rows = min(jpeg.MAX_SIDE, MAX_STACK_PIXELS // stream.width)
        size = max(1, rows // (stream.padded_height * stream.pictures_per_frame))
        if size > stream.frames_per_unit:
            size -= size % stream.frames_per_unit
        for start in range(0, stream.num_frames, size):
            yield self.decode(list(range(start, min(start + size, stream.num_frames))))


def sample_key(sample_id: int) -> str:
    """The key of a sample in its tar: unique, without a dot, and sorting like the id."""
    return f"{sample_id:08d}"


def expected_members(codec: str, num_labels: int, *, has_parts: bool) -> tuple[str, ...]:
    """Names of a sample's members, in their order in the tar."""
    absent = {name for name, there in (("cls", num_labels == 1), ("parts.npy", has_parts)) if not there}
    return (*(name for name in SMALL_MEMBERS if name not in absent), codec)


def to_members(sample: Sample) -> dict[str, bytes]:
    """The members of a sample, in their order in the tar."""
    stream = sample.stream
    values = {"sample_id": sample.sample_id} | {name: getattr(stream, name) for name in META_FIELDS[1:]}
    contents = {
        "meta.npy": _npy(np.array([values[name] for name in META_FIELDS], np.int32)),
        "frames.npy": _npy(stream.units),
        "head": stream.head,
        "label.npy": _npy(np.array(sample.labels, np.int64)),
        "cls": str(sample.labels[0]).encode(),
        "json": json.dumps(sample.info, sort_keys=True, ensure_ascii=False).encode(),
        stream.codec: stream.data,
    }
    if sample.parts is not None:
        contents["parts.npy"] = _npy(sample.parts)
    names = expected_members(stream.codec, len(sample.labels), has_parts=sample.parts is not None)
    return {name: contents[name] for name in names}


def from_members(members: Mapping[str, bytes]) -> Sample:
    """The sample that `to_members` made these from.

    Raises:
        ValueError: a member is missing or cannot be read; the message starts with the member's name.
    """
    codec: Codec | None = next((name for name in STREAM_MEMBERS if name in members), None)
    if codec is None:
        raise ValueError(
            f"{' or '.join(STREAM_MEMBERS)}: no such member; there are {', '.join(members) or 'none'}"
        )
    labels = _load_npy(members, "label.npy", np.int64, ndim=1)
    has_parts = "parts.npy" in members
    for name in expected_members(codec, len(labels), has_parts=has_parts):
        if name not in members:
            raise ValueError(f"{name}: no such member; there are {', '.join(members)}")
    meta_values = _load_npy(members, "meta.npy", np.int32, ndim=1)
    if len(meta_values) != len(META_FIELDS):
        raise ValueError(
            f"meta.npy: {len(meta_values)} numbers, expected {len(META_FIELDS)}: {', '.join(META_FIELDS)}"
        )
    meta = dict(zip(META_FIELDS, meta_values.tolist(), strict=True))
    units = _load_npy(members, "frames.npy", np.int32, ndim=2)
    parts = _load_npy(members, "parts.npy", np.int32, ndim=2) if has_parts else None
    try:
        info = json.loads(members["json"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"json: not JSON: {error}") from error
    if not isinstance(info, dict):
        raise ValueError(f"json: a {type(info).__name__}, expected an object")
    sample_id = meta.pop("sample_id")
    stream = EncodedStream(codec=codec, data=members[codec], units=units, head=members["head"], **meta)
    return Sample(sample_id, tuple(labels.tolist()), stream, info, parts)


def stream_crc32(data: bytes) -> int:
    """Checksum of a stream, as `stream_crc32` in the `json` member gives it."""
    return zlib.crc32(data)


def _npy(array: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.save(target, array, allow_pickle=False)
    return target.getvalue()


def _load_npy(members: Mapping[str, bytes], name: str, dtype: type, *, ndim: int) -> np.ndarray:
    if name not in members:
        raise ValueError(f"{name}: no such member; there are {', '.join(members)}")
    try:
        array = np.load(io.BytesIO(members[name]), allow_pickle=False)
    except Exception as error:  # numpy evaluates the header as Python, so damage raises almost anything
        raise ValueError(f"{name}: not a numpy array: {error or type(error).__name__}") from error
    if not isinstance(array, np.ndarray):  # a zip archive also loads
        raise ValueError(f"{name}: not a numpy array: an archive of arrays")
    if array.dtype != dtype or array.ndim != ndim:
        expected = f"{np.dtype(dtype)} with {counted(ndim, 'dimension')}"
        raise ValueError(
            f"{name}: {array.dtype} with {counted(array.ndim, 'dimension')}, expected {expected}"
        )
    return array
