"""The tests that need a GPU, with a CPU in its place, so that they run when one is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parent


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which runs them in earnest")
@pytest.mark.parametrize(
    "name", ["dali_pipes/test_gpu.py", pytest.param("test_gpu_training.py", marks=pytest.mark.slow)]
)
def test_gpu_tests_run_on_a_cpu(name):
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS / name), "-k", "not memory_is_flat"]
    environment = os.environ | {"TSN_TEST_DEVICE": "cpu", "REQUIRE_GPU": "0"}
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
