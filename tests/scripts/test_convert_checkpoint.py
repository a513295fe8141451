"""convert_checkpoint.py as a user runs it, on the names and shapes of real checkpoints."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_training import ROOT, load_entry_point

from tsn.config_io import load_config
from tsn.errors import UserError
from tsn.model import build_model

CONVERT = load_entry_point(ROOT / "scripts" / "convert_checkpoint.py").main

ROWS = {
    "r50_rgb": "tsn_r50_1x1x3_100e_kinetics400_rgb",
    "r50_flow": "tsn_r50_320p_1x1x3_110e_kinetics400_flow",
    "r18_hvu_action": "tsn_r18_1x1x8_100e_hvu_action_rgb",
    "r101_mmit": "tsn_r101_1x1x5_50e_mmit_rgb",
    "resnext101_32x4d_mmcls": "tsn_rn101_32x4d_320p_1x1x3_100e_kinetics400_rgb",
    "densenet161_tv": "tsn_dense161_320p_1x1x3_100e_kinetics400_rgb",
}
"""For each list of names the row of that network."""


def theirs_of(golden: Path, name: str) -> dict[str, torch.Tensor]:
    """MMAction2's names with tensors of the right shape; all of a tensor is one number of its own, so that
    files stay small."""
    state = {}
    for i, line in enumerate((golden / f"state_dict_keys_{name}.txt").read_text().splitlines()):
        key, shape = line.split()
        sides = [] if shape == "scalar" else [int(side) for side in shape.split("x")]
        state[key] = torch.tensor(i if key.endswith("tracked") else i / 7).expand(sides)
    return state


class HistoryBuffer:
    """Stands for one of the objects that checkpoints carry."""

    def __init__(self) -> None:
        self.values = [1, 2]


def write_0x(path: Path, state: dict) -> None:
    torch.save({"meta": {"epoch": 7, "CLASSES": None}, "state_dict": state, "optimizer": {"state": {}}}, path)


def write_1x(path: Path, state: dict) -> None:
    hub = {"log_scalars": {"train/loss": HistoryBuffer()}, "number": np.float64(0.5)}
    torch.save(
        {"meta": {"cfg": "x = 1"}, "state_dict": state, "message_hub": hub, "param_schedulers": []}, path
    )


def write_data_parallel(path: Path, state: dict) -> None:
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].shape == tensor.shape, key
        assert torch.equal(found[key], tensor), key


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        *((name, write_0x) for name in ROWS),
        ("r18_hvu_action", write_1x),
        ("r18_hvu_action", write_data_parallel),
    ],
)
def test_names_come_back_as_they_were(golden, tmp_path, name, write, capsys):
    state = theirs_of(golden, name)
    files = [tmp_path / name for name in ("theirs.pth", "ours.pt", "again.pth")]
    write(files[0], state)
    assert CONVERT([str(files[0]), str(files[1])]) == 0
    assert f"read {files[0]}: {len(state)} tensors" in capsys.readouterr().out
    ours = load(files[1])["model"]
    assert {key.split(".")[0] for key in ours} == {"backbone", "fc"}
    assert CONVERT([str(files[1]), str(files[2]), "--to", "mmaction", "--cfg", ROWS[name]]) == 0
    assert_same(load(files[2])["state_dict"], state)


@pytest.mark.parametrize("name", ["r50_flow", "r18_hvu_action"])
def test_with_a_row_the_weights_are_those_of_its_network(golden, tmp_path, name, capsys):
    write_1x(tmp_path / "theirs.pth", theirs_of(golden, name))
    CONVERT([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt"), "--cfg", ROWS[name]])
    said = capsys.readouterr().out
    assert f"{ROWS[name]}: all layers are loaded" in said
    assert "left out: message_hub, meta, param_schedulers" in said
    config = load_config(ROWS[name]).config
    model = build_model(config.model, clip_len=config.data.train.clip_len)
    model.load_state_dict(load(tmp_path / "ours.pt")["model"])


def test_another_number_of_classes_leaves_the_last_layer_fresh_and_says_so(golden, tmp_path, capsys):
    state = theirs_of(golden, "r18_hvu_action")
    write_0x(tmp_path / "theirs.pth", state)
    CONVERT(
        [
            str(tmp_path / "theirs.pth"),
            str(tmp_path / "ours.pt"),
            "--cfg",
            ROWS["r18_hvu_action"].replace("action", "scene"),
        ]
    )
    said = capsys.readouterr().out
    assert "739 classes\n" in said
    assert "the last layer (248 classes) starts fresh: it has 739 classes" in said
    assert "248 classes, under the names of ours" in said
    ours = load(tmp_path / "ours.pt")["model"]
    assert ours["fc.weight"].shape == (248, 512)
    assert 0.005 < ours["fc.weight"].std() < 0.02
    assert not ours["fc.bias"].any()
    assert torch.equal(ours["backbone.conv1.weight"], state["backbone.conv1.conv.weight"])


def test_weights_of_another_network_are_refused_and_nothing_is_written(golden, tmp_path):
    write_0x(tmp_path / "theirs.pth", theirs_of(golden, "r18_hvu_action"))
    with pytest.raises(UserError, match=r"theirs.pth: holds the weights of another model: .*layer1.0.conv1"):
        CONVERT([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt"), "--cfg", ROWS["r50_rgb"]])
    assert not (tmp_path / "ours.pt").exists()


def test_without_a_row_a_file_of_weights_does_not_tell_the_names_of_mmaction(golden, tmp_path):
    write_0x(tmp_path / "theirs.pth", theirs_of(golden, "r50_rgb"))
    with pytest.raises(UserError, match=r"does not say of which network it is.*add --cfg"):
        CONVERT([str(tmp_path / "theirs.pth"), str(tmp_path / "again.pth"), "--to", "mmaction"])


def test_nothing_is_overwritten_unless_asked_and_the_source_never(golden, tmp_path):
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.pt"
    write_0x(source, theirs_of(golden, "r50_rgb"))
    target.write_text("precious")
    with pytest.raises(UserError, match=r"ours.pt: exists already; name another file, or add --overwrite"):
        CONVERT([str(source), str(target)])
    assert target.read_text() == "precious"
    with pytest.raises(UserError, match=r"theirs.pth: is the checkpoint to read"):
        CONVERT([str(source), str(source), "--overwrite"])
    with pytest.raises(UserError, match="there is no directory"):
        CONVERT([str(source), str(tmp_path / "no" / "ours.pt")])
    CONVERT([str(source), str(target), "--overwrite"])
    assert load(target)["converted_from"]["path"] == str(source)


def test_a_source_that_is_missing_is_named_where_the_target_exists(tmp_path):
    (tmp_path / "ours.pt").write_text("precious")
    with pytest.raises(UserError, match=r"gone.pth: no such checkpoint file"):
        CONVERT([str(tmp_path / "gone.pth"), str(tmp_path / "ours.pt"), "--overwrite"])
    assert (tmp_path / "ours.pt").read_text() == "precious"


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_what_a_file_wants_to_run_is_not_run(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"state_dict": {"backbone.x": torch.ones(1)}, "meta": Harmful(trace)}, tmp_path / "theirs.pth")
    pickle.loads(pickle.dumps(Harmful(tmp_path / "works")))
    assert (tmp_path / "works").exists(), "it would be run"
    with pytest.raises(UserError, match="refused, because reading it would execute what it contains"):
        CONVERT([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt")])
    assert not trace.exists()


def test_a_checkpoint_of_train_py_tells_its_own_network(golden, tmp_path):
    state = theirs_of(golden, "r50_rgb")
    write_0x(tmp_path / "theirs.pth", state)
    CONVERT([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pt")])
    content = {"format": "tsn-checkpoint", "model": load(tmp_path / "ours.pt")["model"]}
    torch.save(
        content | {"config": {"model": {"backbone": "resnet50"}}, "optimizer": {}}, tmp_path / "best.pt"
    )
    CONVERT([str(tmp_path / "best.pt"), str(tmp_path / "again.pth"), "--to", "mmaction"])
    assert_same(load(tmp_path / "again.pth")["state_dict"], state)
