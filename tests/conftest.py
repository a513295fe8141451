"""Shared fixtures. The project, `scripts/` and `tests/` come onto the path: `video_factory` is a module."""

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
# The project first: without it the folder tests/shards would pass for the package of that name.
sys.path[:0] = [str(TESTS.parent), str(TESTS.parent / "scripts"), str(TESTS)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` skip without one, and fail where REQUIRE_GPU=1 promises one."""
    if not any(item.iter_markers("gpu")):
        return
    import torch

    if torch.cuda.is_available():
        return
    if os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail(
            "REQUIRE_GPU=1, but torch finds no usable NVIDIA GPU: see scripts/doctor.py", pytrace=False
        )
    pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The directory of real videos that TSN_TEST_DATA names."""
    path = os.environ.get("TSN_TEST_DATA")
    if not path:
        pytest.skip("TSN_TEST_DATA is not set")
    return Path(path)


@pytest.fixture(scope="session")
def golden(test_data: Path) -> Path:
    """The directory of golden cases beside the real videos."""
    path = test_data.parent / "reference" / "golden"
    if not path.is_dir():
        pytest.skip(f"no golden cases at {path}")
    return path
