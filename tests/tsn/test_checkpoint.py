import errno
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tsn import files
from tsn.checkpoint import (
    Checkpoint,
    RunState,
    check_resumable,
    file_sha256,
    load_checkpoint,
    save_checkpoint,
)
from tsn.config_io import config_to_dict, load_config
from tsn.errors import UserError
from tsn.randomness import random_state, restore_random_state, seed_rank

CONFIG = load_config("mini").config


def make_checkpoint(step: int = 25, **changes) -> Checkpoint:
    loader = {"epoch": 2, "bytes": b"\x00\xff", "none": b""}
    rank = {"loader": loader, "random": random_state(), "tally": [1.5, 2.0, 3.0]}
    return replace(
        Checkpoint(
            model={"fc.bias": torch.arange(3.0)},
            optimizer={"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
            run=RunState(step=step, validated_epoch=2, best=0.5, best_epoch=1),
            steps_per_epoch=10,
            ranks=[rank, rank],
            log_size_bytes=17,
            config_name="mini",
            config=config_to_dict(CONFIG),
            classes=["run", "jump"],
        ),
        **changes,
    )


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    written = make_checkpoint()
    save_checkpoint(tmp_path / "a.pt", written)
    read = load_checkpoint(tmp_path / "a.pt")
    assert (read.epoch, read.run, read.world_size, read.config) == (2, written.run, 2, written.config)
    assert read.classes == ["run", "jump"]
    assert read.ranks[1]["loader"] == {"epoch": 2, "bytes": b"\x00\xff", "none": b""}
    assert torch.equal(read.model["fc.bias"], written.model["fc.bias"])
    assert read.optimizer["param_groups"] == [{"lr": 0.1}]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "last.pt", make_checkpoint(step=1))

    def fail(*_):
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(UserError, match=r"last\.pt: cannot be written: disk full\.  The file from before"):
        save_checkpoint(tmp_path / "last.pt", make_checkpoint(step=2))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert load_checkpoint(tmp_path / "last.pt").run.step == 1


def test_files_that_are_not_ours_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"theirs.pth: is not a checkpoint of this project"):
        load_checkpoint(tmp_path / "theirs.pth")
    torch.save({"format": "tsn-checkpoint", "version": 99}, tmp_path / "new.pt")
    with pytest.raises(UserError, match=r"new.pt: is a checkpoint of version 99, expected 2"):
        load_checkpoint(tmp_path / "new.pt")


def test_a_run_may_be_resumed_with_the_same_config_and_ranks():
    check_resumable(make_checkpoint(), CONFIG, world_size=2, source="last.pt")


@pytest.mark.parametrize(
    "override",
    ["data.test.num_crops=10", "data.num_threads=3", "train.save_every_steps=7", "data.train.shards=moved"],
)
def test_what_no_update_depends_on_may_change(override):
    check_resumable(make_checkpoint(), load_config("mini", [override]).config, world_size=2, source="last.pt")


def test_everything_that_differs_is_named():
    config = load_config("mini", ["optim.lr=0.5", "data.train.num_segments=4"]).config
    with pytest.raises(
        UserError,
        match=r"(?s)the run has 2 ranks, and now there are 3.*data.train.num_segments: 3 in "
        r"the checkpoint, 4 now.*optim.lr: .* in the checkpoint, 0.5 now.*set model.pretrained",
    ):
        check_resumable(make_checkpoint(), config, world_size=3, source="last.pt")


def test_a_run_may_get_more_epochs_unless_its_cosine_depends_on_them():
    step = ["schedule.kind=step", "schedule.warmup_epochs=0"]
    written = make_checkpoint(config=config_to_dict(load_config("mini", step).config))
    check_resumable(
        written, load_config("mini", [*step, "schedule.epochs=99"]).config, world_size=2, source=""
    )
    cosine = load_config("mini", ["schedule.epochs=99"]).config
    with pytest.raises(UserError, match=r"schedule.epochs: \d+ in the checkpoint, 99 now"):
        check_resumable(make_checkpoint(), cosine, world_size=2, source="last.pt")


def test_the_identity_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


def draw() -> list[float]:
    return [torch.rand(1).item(), float(np.random.rand()), random.random()]


def test_random_generators_go_on_where_they_were(tmp_path):
    seed_rank(5, 1)
    draw()
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draw()
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected


def test_ranks_draw_different_numbers_and_seeds_repeat_them():
    drawn = []
    for seed, rank in [(5, 0), (5, 1), (6, 0), (5, 0)]:
        seed_rank(seed, rank)
        drawn.append(draw())
    assert drawn[0] == drawn[3]
    assert not set(drawn[0]) & (set(drawn[1]) | set(drawn[2]))
