import pytest
import torch

from tsn.config import ModelConfig, OptimConfig
from tsn.model import build_model
from tsn.optim import build_optimizer, set_lr


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(num_classes=313, backbone="resnet18"))


def test_plain_groups_treat_all_parameters_alike(model):
    (group,) = build_optimizer(model, OptimConfig(weight_decay=1e-4), lr=0.1).param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert (group["lr"], group["weight_decay"], group["nesterov"]) == (0.1, 1e-4, False)


def test_groups_of_tsm_have_rates_and_decay_of_their_own(model):
    """The table of semantics.md, section 4: the first convolution is one of the weights."""
    config = OptimConfig(weight_decay=1e-4, param_groups="tsm_fc_lr5")
    optimizer = build_optimizer(model, config, lr=0.1)
    set_lr(optimizer, 0.01)
    found = {
        id(parameter): (round(group["lr"], 6), group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        if name == "fc.weight":
            expected = (0.05, 1e-4)
        elif name == "fc.bias":
            expected = (0.1, 0)
        else:
            expected = (0.01, 1e-4 if parameter.ndim == 4 else 0)
        assert found.pop(id(parameter)) == expected, name
    assert not found


def test_biases_of_convolutions_learn_twice_as_fast():
    torch.manual_seed(0)
    model = build_model(ModelConfig(num_classes=3, backbone="timm/convnext_atto"))
    optimizer = build_optimizer(model, OptimConfig(param_groups="tsm_fc_lr5"), lr=0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(dict(model.named_parameters())["backbone.stem.0.bias"])] == pytest.approx(0.2)
