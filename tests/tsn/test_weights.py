import os
import pickle
import urllib.error

import numpy as np
import pytest
import torch
from torchvision import models

from tsn.config import ModelConfig
from tsn.errors import UserError
from tsn.model import build_model
from tsn.unpickling import Placeholder, load_without_executing
from tsn.weights import load_pretrained, load_weights, read_weights, rename_keys


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(num_classes=5, backbone="resnet18"))


@pytest.fixture(scope="module")
def imagenet_state():
    torch.manual_seed(1)
    return models.resnet18().state_dict()


def test_imagenet_weights_fill_the_backbone_and_leave_the_last_layer(model, imagenet_state, monkeypatch):
    asked = {}

    def get_state_dict(self, **options):
        asked.update(options, name=self.name)
        return imagenet_state

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", get_state_dict)
    head = model.fc.weight.clone()
    message = load_pretrained(model, pretrained="imagenet_v1", backbone="resnet18")
    assert asked == {"progress": False, "check_hash": True, "weights_only": True, "name": "IMAGENET1K_V1"}
    assert torch.equal(model.backbone.conv1.weight, imagenet_state["conv1.weight"])
    assert torch.equal(model.fc.weight, head)
    assert "the last layer (5 classes) starts fresh: it has none" in message


def test_weights_that_do_not_exist_are_named_with_those_that_do(model):
    with pytest.raises(UserError, match="no imagenet_v2 for resnet18; it has imagenet_v1"):
        load_pretrained(model, pretrained="imagenet_v2", backbone="resnet18")


def test_without_a_network_the_error_says_where_to_put_the_file(model, monkeypatch):
    def refuse(self, **options):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", refuse)
    with pytest.raises(
        UserError, match=r"could not download .*resnet18-.*\.pth .*put that file into .*checkpoints"
    ):
        load_pretrained(model, pretrained="imagenet_v1", backbone="resnet18")


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_file_of_torchvision_is_read(model, imagenet_state, tmp_path, is_legacy):
    torch.save(imagenet_state, tmp_path / "r18.pth", _use_new_zipfile_serialization=not is_legacy)
    load_pretrained(model, pretrained=str(tmp_path / "r18.pth"), backbone="resnet18")
    assert torch.equal(model.backbone.layer4[1].bn2.bias, imagenet_state["layer4.1.bn2.bias"])


def test_none_leaves_the_weights_alone(model):
    before = model.fc.weight.clone()
    assert load_pretrained(model, pretrained="none", backbone="resnet18") == "initial weights: random"
    assert torch.equal(model.fc.weight, before)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.conv1.conv.weight", "backbone.conv1.weight"),
        ("backbone.conv1.bn.running_var", "backbone.bn1.running_var"),
        ("backbone.layer2.0.conv3.conv.weight", "backbone.layer2.0.conv3.weight"),
        ("backbone.layer2.0.conv3.bn.num_batches_tracked", "backbone.layer2.0.bn3.num_batches_tracked"),
        ("backbone.layer2.0.downsample.conv.weight", "backbone.layer2.0.downsample.0.weight"),
        ("backbone.layer2.0.downsample.bn.bias", "backbone.layer2.0.downsample.1.bias"),
        ("module.backbone.layer2.0.bn1.bias", "backbone.layer2.0.bn1.bias"),  # mmcls has torchvision's names
        ("cls_head.fc_cls.bias", "fc.bias"),
    ],
)
def test_names_of_mmaction_become_ours(theirs, ours):
    renamed = rename_keys({theirs: torch.zeros(1), "cls_head.fc_cls.weight": torch.zeros(1)})
    assert list(renamed) == [ours, "fc.weight"]


def test_another_class_count_leaves_the_last_layer_fresh_and_says_so(model):
    other = build_model(ModelConfig(num_classes=7, backbone="resnet18"))
    head = model.fc.weight.clone()
    message = load_weights(model, other.state_dict(), source="x.pth", adapt=True)
    assert message == "the last layer (5 classes) starts fresh: it has 7 classes"
    assert torch.equal(model.fc.weight, head)
    assert torch.equal(model.backbone.conv1.weight, other.backbone.conv1.weight)


def test_other_input_channels_leave_the_first_layer_fresh_and_say_so(model):
    flow = build_model(ModelConfig(num_classes=5, backbone="resnet18", modality="flow"), clip_len=5)
    stem = flow.backbone.conv1.weight.clone()
    message = load_weights(flow, model.state_dict(), source="x.pth", adapt=True)
    assert message == "the first layer (10 channels) starts fresh: it has 3 channels"
    assert torch.equal(flow.backbone.conv1.weight, stem)
    assert torch.equal(flow.backbone.bn1.weight, model.backbone.bn1.weight)


def test_for_testing_another_class_count_is_an_error(model):
    other = build_model(ModelConfig(num_classes=7, backbone="resnet18"))
    with pytest.raises(
        UserError, match=r"x.pth: .*another model: fc.weight has shape \(7, 512\), expected \(5, 512\)"
    ):
        load_weights(model, other.state_dict(), source="x.pth", adapt=False)


def test_missing_and_left_over_tensors_are_errors_and_change_nothing(model):
    state = dict(model.state_dict())
    before = model.backbone.bn1.bias.clone()
    state["backbone.bn1.bias"] = before + 1
    del state["backbone.conv1.weight"]
    state["backbone.conv9.weight"] = torch.zeros(1)
    with pytest.raises(
        UserError, match=r"backbone.conv1.weight is missing; backbone.conv9.weight is not in this model"
    ):
        load_weights(model, state, source="x.pth", adapt=False)
    assert torch.equal(model.backbone.bn1.bias, before)


def test_batchnorm_counters_may_be_missing(model):
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert load_weights(model, state, source="x.pth", adapt=False) == "all layers are loaded"


class HistoryBuffer:
    """Like the objects that MMAction2 1.x keeps beside the weights."""

    def __init__(self):
        self.values = np.arange(3)


@pytest.mark.parametrize("is_legacy", [False, True])
def test_foreign_objects_beside_the_weights_are_skipped(tmp_path, is_legacy):
    content = {
        "meta": {"hook_msgs": {"best_score": np.float64(0.5)}, "dtype": np.dtype("float32")},
        "message_hub": {"log": HistoryBuffer()},
        "state_dict": {"cls_head.fc_cls.bias": torch.ones(2)},
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not is_legacy)
    assert read_weights(tmp_path / "a.pth")["fc.bias"].tolist() == [1, 1]
    assert isinstance(load_without_executing(tmp_path / "a.pth")["message_hub"]["log"], Placeholder)


class Attack:
    """Its pickle calls a function of ours when a naive reader loads it."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def test_what_a_file_wants_to_call_is_not_called(tmp_path):
    touched = tmp_path / "touched"
    content = {"meta": Attack(exec, f"open({str(touched)!r}, 'w')"), "state_dict": {"a": torch.ones(1)}}
    torch.save(content, tmp_path / "evil.pth")
    assert read_weights(tmp_path / "evil.pth")
    assert not touched.exists()
    pickle.loads(pickle.dumps(content["meta"]))
    assert touched.exists(), "the attack would work on a naive reader"


def test_a_file_that_asks_for_the_system_is_refused(tmp_path):
    torch.save({"meta": Attack(os.system, "true"), "state_dict": {}}, tmp_path / "evil.pth")
    with pytest.raises(
        UserError, match=r"evil.pth: refused, because reading it would execute what it contains"
    ):
        read_weights(tmp_path / "evil.pth")


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint file"):
        read_weights(tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match=r"text.pth: damaged, or not a file written by torch.save"):
        read_weights(tmp_path / "text.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(tmp_path / "empty.pth")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut.pth: damaged"):
        read_weights(tmp_path / "cut.pth")
