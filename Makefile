# Everything runs in .venv, which the first target that needs it makes; nothing is downloaded but packages.
PYTHON ?= python3
DEMO_DIR ?= work/demo

# Tests on real videos find them here; where it is unset and nothing lies at ../shared/data, they skip and say so.
ifeq ($(TSN_TEST_DATA),)
ifneq ($(wildcard ../shared/data),)
export TSN_TEST_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: demo test check test-gpu test-mmaction2 clean

demo: .venv/installed
	.venv/bin/python scripts/demo.py --work-dir $(DEMO_DIR)

test: .venv/installed
	.venv/bin/python -m pytest

test-gpu: .venv/installed
	REQUIRE_GPU=1 .venv/bin/python -m pytest -m gpu

test-mmaction2: .venv-mmaction2/installed
	.venv-mmaction2/bin/python -m pytest tests/test_mmaction2.py tests/scripts/test_compare_loaders.py

check: .venv/installed
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/pyright
	.venv/bin/python -m pytest -m "not gpu and not slow" --ignore tests/scripts

clean:
	rm -rf $(DEMO_DIR) .pytest_cache .ruff_cache build *.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -e '.[cuda12,test]'
	touch $@

# MMAction2 brings other builds of OpenCV, so it has an environment to itself.
.venv-mmaction2/installed: pyproject.toml
	$(PYTHON) -m venv .venv-mmaction2
	.venv-mmaction2/bin/pip install --quiet -e '.[cuda12,test,bench]'
	touch $@
