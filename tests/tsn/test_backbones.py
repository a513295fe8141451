import pytest
import torch

from tsn.backbones import build_backbone
from tsn.errors import UserError


@pytest.mark.parametrize(
    ("name", "num_features"),
    [
        ("timm/resnet10t", 512),
        ("timm/mobilenetv3_small_050", 1024),  # a layer after the pooling
        ("timm/convnext_atto", 320),  # a normalisation after the pooling
        ("timm/resnet10t.c3_in1k", 512),  # with the name of weights
        ("torchvision/mobilenet_v3_small", 1024),
        ("torchvision/googlenet", 1024),  # side classifiers
        ("torchvision/resnet34", 512),
    ],
)
@pytest.mark.parametrize("in_channels", [3, 10])
def test_features_of_other_networks_are_found(name, num_features, in_channels):
    network, found = build_backbone(name, in_channels)
    assert found == num_features
    with torch.inference_mode():
        assert network.eval()(torch.zeros(2, in_channels, 64, 64)).shape == (2, num_features)


def test_swin_is_the_mean_over_the_tokens_after_the_last_normalisation():
    network, num_features = build_backbone("swin_base")
    assert num_features == 1024
    tokens = []
    network.norm.register_forward_hook(lambda _module, _inputs, output: tokens.append(output))
    with torch.inference_mode():
        features = network.eval()(torch.randn(1, 3, 224, 224))
    torch.testing.assert_close(features, tokens[0].reshape(1, 49, 1024).mean(dim=1))


def test_densenet_has_no_relu_after_its_last_normalisation():
    network, _ = build_backbone("densenet161")
    with torch.inference_mode():
        assert network.eval()(torch.randn(1, 3, 32, 32)).min() < 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg", "'vgg' is unknown; known are: resnet18, .*swin_base, timm/NAME, torchvision/NAME"),
        ("timm/resnet10", "timm has no image network 'resnet10'; did you mean .*resnet10t"),
        ("torchvision/resnet5", "torchvision has no image network 'resnet5'; did you mean .*resnet50"),
        ("torchvision/squeezenet1_0", "squeezenet1_0 has no last linear layer"),
    ],
)
def test_what_is_no_backbone_is_refused(name, message):
    with pytest.raises(UserError, match=f"model.backbone: .*{message}"):
        build_backbone(name)
