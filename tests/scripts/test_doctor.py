"""doctor.py: each finding with its remedy, on machines that are made up, and the whole on this one."""

import ctypes
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from frame_shards import numbered_videos, write_shards

import doctor
from shards.manifest import load_manifest
from support import disk_speed, gpu_library

ROOT = Path(__file__).resolve().parents[2]


def test_a_machine_without_a_driver_trains_on_the_cpu():
    finding = doctor.check_driver(None, None)
    assert (finding.status, finding.stops_training) == ("missing", False)
    assert doctor.verdict([finding], sees_gpu=False) == "no usable GPU: training runs on the CPU, in fp32"


def test_a_driver_that_the_container_hides_stops_training():
    finding = doctor.check_driver(None, "580.65.06")
    assert finding.stops_training
    assert "--gpus all" in finding.remedy
    assert "NVIDIA driver" in doctor.verdict([finding], sees_gpu=False)


@pytest.mark.parametrize(
    ("cuda", "driver", "remedy"),
    [
        (None, 13000, "CUDA build"),
        ("13.0", 12040, "the driver ends at CUDA 12.4"),
        ("12.8", 12080, "nvidia-smi"),
    ],
)
def test_why_torch_sees_no_gpu(cuda, driver, remedy):
    finding = doctor.check_torch("2.11", cuda, sees_gpu=False, driver=driver)
    assert finding.stops_training
    assert remedy in finding.remedy
    assert doctor.check_torch("2.11", "13.0", sees_gpu=True, driver=driver).status == "ok"


@pytest.mark.parametrize(
    ("installed", "driver", "remedy"),
    [
        ({"nvidia-dali-cuda120": "2.4.0"}, None, ""),
        ({"nvidia-dali-cuda120": "2.4.0"}, 12020, ""),
        ({"nvidia-dali-cuda120": "2.4.0"}, 13000, ""),
        ({"nvidia-dali-cuda130": "2.4.0"}, 13000, ""),
        ({"nvidia-dali-cuda130": "2.4.0"}, 12080, "pip install -e '.[cuda12]'"),
        ({"nvidia-dali-cuda120": "2.4.0"}, 11080, "update the driver"),
        ({}, 13000, "pip install -e '.[cuda12]'"),
        ({"nvidia-dali-cuda120": "2.4.0", "nvidia-dali-cuda130": "2.4.0"}, 13000, "keep one"),
    ],
)
def test_dali_fits_the_driver_or_the_remedy_says_which_does(installed, driver, remedy):
    finding = doctor.check_dali(installed, driver)
    assert (finding.status == "ok") == (remedy == "") == (not finding.stops_training)
    assert remedy in finding.remedy


def test_libraries_that_only_slow_down_do_not_stop_training():
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in doctor.check_video_library(False).remedy
    findings = [
        doctor.check_video_library(False),
        doctor.check_video_codecs([]),
        doctor.check_jpeg_engines(None, usable=False),
        doctor.check_jpeg_engines((1, 8), usable=False),
        doctor.check_cores(4, num_gpus=1),
        doctor.check_memory(2**31),
        doctor.check_shm(2**26, num_gpus=2),
        doctor.check_open_files(256),
        doctor.check_nccl(None, num_gpus=1),
    ]
    assert {finding.status for finding in findings} == {"warning", "missing"}
    assert not any(finding.stops_training for finding in findings)
    assert doctor.check_nccl(None, num_gpus=2).stops_training


def test_what_is_plenty_is_ok():
    codec = gpu_library.VideoCodec("H.264", 7, 48, 16, 4096, 4096)
    findings = [
        doctor.check_video_library(True),
        doctor.check_video_codecs([codec]),
        doctor.check_jpeg_engines((1, 8), usable=True),
        doctor.check_jpeg_engines((0, 0), usable=False),
        doctor.check_cores(16, num_gpus=2),
        doctor.check_cores(1, num_gpus=0),
        doctor.check_memory(2**36),
        doctor.check_shm(2**33, num_gpus=8),
        doctor.check_shm(2**26, num_gpus=1),
        doctor.check_open_files(-1),
        doctor.check_nccl("2.30.7", num_gpus=8),
    ]
    assert {(finding.status, finding.remedy) for finding in findings} == {("ok", "")}
    assert "H.264 from 48x16" in findings[1].found


def test_read_ahead_beyond_what_units_need_is_named_with_its_file(tmp_path):
    path = tmp_path / "read_ahead_kb"
    path.write_text("8192\n")
    assert str(path) in doctor.check_read_ahead(path).remedy
    path.write_text("128\n")
    assert doctor.check_read_ahead(path).status == "ok"
    assert doctor.check_read_ahead(None).status == "ok"


def test_cuda_versions_are_read_and_written_as_the_driver_numbers_them():
    assert doctor.cuda_number("12.4") == 12040
    assert doctor.cuda_name(12040) == "12.4"


def test_the_question_to_nvdec_has_the_layout_of_its_header():
    assert ctypes.sizeof(gpu_library.DecodeCaps) == 88
    assert gpu_library.DecodeCaps.min_width.offset == 40


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
        ("something else", "unknown"),
    ],
)
def test_the_kernel_module_tells_its_version(tmp_path, text, version):
    (tmp_path / "version").write_text(text)
    assert gpu_library.kernel_module_version(tmp_path / "version") == version
    assert gpu_library.kernel_module_version(tmp_path / "absent") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks a machine without a GPU")
def test_without_a_gpu_there_are_no_jpeg_engines():
    assert gpu_library.jpeg_engines() is None
    assert not gpu_library.jpeg_engines_decode()


def test_units_are_read_from_places_that_differ(tmp_path):
    directory = write_shards(tmp_path, numbered_videos(8, num_frames=6), samples_per_shard=4)
    manifest = load_manifest(directory)
    speed = disk_speed.measure_disk(directory, manifest)
    assert speed.bytes_per_read == manifest.size_bytes // manifest.num_frames
    assert speed.reads_per_s > 0
    places = disk_speed._random_places(manifest.shards, 1000, 10)
    assert len(set(places)) == len(places) == 10
    assert {shard for shard, _ in places} == {0, 1}


def test_of_many_tars_a_hundred_from_everywhere_are_read(tmp_path, monkeypatch):
    directory = write_shards(tmp_path, numbered_videos(1))
    manifest = load_manifest(directory)
    [shard] = manifest.shards
    shards = [replace(shard, name=f"{number}.tar") for number in range(1100)]
    for entry in shards:
        (tmp_path / entry.name).hardlink_to(tmp_path / shard.name)
    opened, open_file = [], os.open

    def count(path, flags):
        opened.append(int(path.stem))
        return open_file(path, flags)

    monkeypatch.setattr(os, "open", count)
    speed = disk_speed.measure_disk(directory, replace(manifest, shards=tuple(shards)))
    assert speed.reads_per_s > 0
    assert len(opened) == len(set(opened)) == 100
    assert min(opened) < 100
    assert max(opened) > 1000


def test_this_machine_has_a_table_and_an_exit_code_that_agree(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "doctor.py"), "--shards"]
    shards = write_shards(tmp_path / "shards", numbered_videos(2))
    done = subprocess.run([*command, str(shards)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "training runs on the " in done.stdout.splitlines()[-1]
    assert "cold units/s" in done.stdout
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "manifest.json: no such file" in done.stdout
