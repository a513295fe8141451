import os
import pickle
import re
import urllib.error

import numpy as np
import pytest
import torch
from torchvision import models

from tsn.backbones import build_backbone
from tsn.config import ModelConfig
from tsn.errors import UserError
from tsn.model import build_model
from tsn.unpickling import Placeholder, load_without_executing
from tsn.weights import load_pretrained, load_weights, read_weights, rename_keys, to_mmaction


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(num_classes=5, backbone="resnet18"))


@pytest.fixture(scope="module")
def imagenet_state():
    torch.manual_seed(1)
    return models.resnet18().state_dict()


def resnet18_from(pretrained, **options) -> ModelConfig:
    return ModelConfig(num_classes=5, backbone="resnet18", pretrained=str(pretrained), **options)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's folder of downloaded weights; there is no network."""

    def refuse(address, *_, **__):
        raise urllib.error.URLError(f"no route to {address}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("pretrained", "file"),
    [
        ("imagenet_v1", "resnet18-f37072fd.pth"),
        ("swsl", "semi_weakly_supervised_resnet18-118f1556.pth"),
        ("https://example.org/some/r18.pth", "r18.pth"),
    ],
)
def test_public_weights_fill_the_backbone_and_leave_the_last_layer(
    model, imagenet_state, hub, pretrained, file
):
    torch.save(imagenet_state, hub / file)
    head = model.fc.weight.clone()
    message = load_pretrained(model, resnet18_from(pretrained))
    assert torch.equal(model.backbone.conv1.weight, imagenet_state["conv1.weight"])
    assert torch.equal(model.fc.weight, head)
    assert "the last layer (5 classes) starts fresh: it has none" in message


def test_weights_that_do_not_exist_are_named_with_those_that_do(model):
    with pytest.raises(
        UserError, match=r"^model.pretrained: torchvision has no imagenet_v2 for resnet18; it has imagenet_v1"
    ):
        load_pretrained(model, resnet18_from("imagenet_v2"))


def test_without_a_network_the_error_says_where_to_put_the_file(model, hub):
    with pytest.raises(
        UserError,
        match=r"^model.pretrained: could not download .*resnet18-.*\.pth .*put that file into .*checkpoints",
    ):
        load_pretrained(model, resnet18_from("imagenet_v1"))


def test_a_downloaded_file_is_checked_by_the_hash_in_its_name(model, hub, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *arguments, **_: asked.append(arguments))
    with pytest.raises(UserError, match="no such checkpoint file"):
        load_pretrained(model, resnet18_from("https://example.org/r18_20200618-d512ab1b.pth"))
    address = "https://example.org/r18_20200618-d512ab1b.pth"
    assert asked == [(address, str(hub / "r18_20200618-d512ab1b.pth"), "d512ab1b")]


def test_swsl_weights_are_known_for_some_backbones_only(model):
    config = ModelConfig(num_classes=5, backbone="resnet101", pretrained="swsl")
    with pytest.raises(
        UserError,
        match=r"^model.pretrained: there are no swsl weights for resnet101; .* for resnet18, resnet50",
    ):
        load_pretrained(model, config)


def test_cross_modality_initialisation_averages_the_colours(imagenet_state, tmp_path):
    torch.save(imagenet_state, tmp_path / "r18.pth")
    config = resnet18_from(tmp_path / "r18.pth", modality="flow", flow_init="cross_modality")
    flow = build_model(config, clip_len=5)
    assert "first layer" not in load_pretrained(flow, config)
    expected = imagenet_state["conv1.weight"].mean(dim=1)
    for channel in range(10):
        torch.testing.assert_close(flow.backbone.conv1.weight[:, channel], expected)


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_file_of_torchvision_is_read(model, imagenet_state, tmp_path, is_legacy):
    torch.save(imagenet_state, tmp_path / "r18.pth", _use_new_zipfile_serialization=not is_legacy)
    load_pretrained(model, resnet18_from(tmp_path / "r18.pth"))
    assert torch.equal(model.backbone.layer4[1].bn2.bias, imagenet_state["layer4.1.bn2.bias"])


def test_none_leaves_the_weights_alone(model):
    before = model.fc.weight.clone()
    assert load_pretrained(model, resnet18_from("none")) == "initial weights: random"
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
    others = ("backbone.conv1.conv.weight", "cls_head.fc_cls.weight")
    renamed = rename_keys({name: torch.zeros(1) for name in (theirs, *others)})
    assert list(dict.fromkeys([ours, "backbone.conv1.weight", "fc.weight"])) == list(renamed)


KEY_LISTS = {
    "r18_hvu_action": "resnet18",
    "r50_rgb": "resnet50",
    "r50_flow": "resnet50",
    "r101_mmit": "resnet101",
    "densenet161_tv": "densenet161",
    "resnext101_32x4d_mmcls": "resnext101_32x4d",
}


@pytest.mark.parametrize("name", KEY_LISTS)
def test_names_go_to_mmaction_and_back(golden, name):
    lines = (golden / f"state_dict_keys_{name}.txt").read_text().split("\n")
    theirs = {line.split()[0]: torch.zeros(1) for line in lines if line}
    ours = rename_keys(theirs)
    backbone = build_backbone(KEY_LISTS[name])[0].state_dict()
    assert list(ours) == [f"backbone.{key}" for key in backbone] + ["fc.weight", "fc.bias"]
    assert list(to_mmaction(ours, KEY_LISTS[name])) == list(theirs)


def test_swin_of_an_old_timm_is_read():
    ours = {f"backbone.{key}": t for key, t in build_backbone("swin_base")[0].state_dict().items()}
    old = {
        re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", n): t for n, t in ours.items()
    }
    old |= {"backbone.layers.0.blocks.1.attn_mask": torch.zeros(1), "cls_head.fc_cls.bias": torch.zeros(1)}
    assert set(rename_keys(old)) == {*ours, "fc.bias"}


def test_mmclassification_loses_its_head(imagenet_state):
    theirs = {f"backbone.{name}": t for name, t in imagenet_state.items() if not name.startswith("fc.")}
    renamed = rename_keys(theirs | {"head.fc.weight": torch.zeros(1), "head.fc.bias": torch.zeros(1)})
    assert list(renamed) == list(theirs)


def test_densenet_of_torchvision_is_read_under_the_names_of_its_files():
    name = "features.denseblock1.denselayer12"
    renamed = rename_keys({f"{name}.norm.1.weight": torch.zeros(1), f"{name}.conv.2.weight": torch.zeros(1)})
    assert list(renamed) == [f"backbone.{name}.norm1.weight", f"backbone.{name}.conv2.weight"]


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


def test_faults_of_initial_weights_name_their_key(model, tmp_path):
    with pytest.raises(UserError, match=r"^model.pretrained: .*nofile.pth: no such checkpoint file"):
        load_pretrained(model, resnet18_from(tmp_path / "nofile.pth"))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"^model.pretrained: .*other.pth: holds the weights of another"):
        load_pretrained(model, resnet18_from(tmp_path / "other.pth"))


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"missing.pth: no such checkpoint file"):
        read_weights(tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(
        UserError, match=r"text.pth: damaged, .* by torch.save; copy it again, or take another$"
    ):
        read_weights(tmp_path / "text.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(tmp_path / "empty.pth")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut.pth: damaged, .*; copy it again, or take another$"):
        read_weights(tmp_path / "cut.pth")


def test_a_first_layer_of_another_kind_is_named_like_any_other_misfit(model):
    state = model.state_dict()
    name = next(name for name, tensor in state.items() if tensor.ndim == 4)
    with pytest.raises(UserError, match=rf"{name} has shape \(7,\)"):
        load_weights(model, state | {name: torch.zeros(7)}, source="file", adapt=True)
