"""Invented samples are whole, of the kind asked for, and the same in every run."""

from types import SimpleNamespace

import numpy as np
import pytest

from shards.manifest import check_files, load_manifest
from shards.reading import ShardDataset
from shards.synthetic import SyntheticKind, write_synthetic
from shards.verify import check_shard, iter_reports

KINDS = {
    "clips": SyntheticKind(num_classes=5),
    "flow": SyntheticKind(num_classes=5, modality="flow", num_frames=12),
    "several labels": SyntheticKind(num_classes=5, multi_label=True, num_frames=4),
    "images": SyntheticKind(num_classes=5, num_frames=1, width=50, height=37),
    "parts": SyntheticKind(num_classes=5, num_parts=3, num_frames=20),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_passes_the_check_of_real_shards(tmp_path, name):
    directory = write_synthetic(tmp_path / "shards", KINDS[name], num_samples=3)
    manifest = load_manifest(directory)
    check_files(directory, manifest)
    in_this_process = SimpleNamespace(run_in_order=lambda tasks: map(check_shard, tasks))
    reports = list(iter_reports(directory, manifest, in_this_process))
    assert [fault for report in reports for fault in report.faults] == []
    assert sum(report.num_samples for report in reports) == manifest.num_samples == 3


def test_samples_are_what_their_kind_says(tmp_path):
    for name, kind in KINDS.items():
        sample = ShardDataset(write_synthetic(tmp_path / name, kind, num_samples=3)).read_sample("00000002")
        channels = 2 if kind.modality == "flow" else 3
        frames = sample.decode(list(range(kind.num_frames)))
        assert frames.shape == (kind.num_frames, kind.height, kind.width, channels)
        assert sample.labels == ((2, 3) if kind.multi_label else (2,))
        if kind.num_parts:
            assert sample.parts is not None
            assert sample.parts.tolist() == [[0, 6, 1], [6, 7, 0], [13, 7, 0]]


def test_frames_move_and_samples_differ(tmp_path):
    dataset = ShardDataset(write_synthetic(tmp_path / "shards", KINDS["clips"], num_samples=2))
    first, other = (dataset.read_sample(key).decode([0, 8]).astype(int) for key in ("00000000", "00000001"))
    moved = np.abs(np.roll(first[0], 8, axis=1) - first[1]).mean()
    assert moved < 4 < np.abs(first[0] - first[1]).mean()
    assert np.abs(first - other).mean() > 20


def test_equal_arguments_give_equal_bytes(tmp_path):
    one, two = (
        write_synthetic(tmp_path / name, KINDS["several labels"], num_samples=2) for name in ("one", "two")
    )
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()
