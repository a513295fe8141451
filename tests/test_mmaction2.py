"""This project beside MMAction2 1.2 itself: `make test-mmaction2`.

The golden cases hold what MMAction2 gave for frames, crops, logits and metrics.  Here both run: updates by
its optimiser, schedule and losses, checkpoints in both directions, and its test pipeline on a video.
"""

import copy
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from loader_factory import eval_loader
from shard_factory import pack_videos, write_video_list

from tsn.config import ModelConfig, OptimConfig, ScheduleConfig
from tsn.config_io import load_config
from tsn.engine import StepOptions, Tally, train_epoch
from tsn.losses import build_loss
from tsn.model import build_model
from tsn.optim import build_optimizer, set_lr
from tsn.schedules import lr_factor
from tsn.timing import WaitTimer
from tsn.weights import load_weights, read_weights, rename_keys, to_mmaction

mmaction = pytest.importorskip("mmaction", reason="MMAction2 is not installed; make test-mmaction2 does it")

CONFIGS = Path(mmaction.__file__).parent / ".mim" / "configs" / "recognition" / "tsn"
RGB = "tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb.py"
FLOW = "tsn_imagenet-pretrained-r50_8xb32_5x1x3-110e_kinetics400-flow.py"
NUM_VIDEOS, NUM_CLASSES, LR = 4, 400, 0.01
SCHEDULE = ScheduleConfig(epochs=3, milestones=(1, 2))
STEPS_PER_EPOCH = 4


@pytest.fixture(scope="module", autouse=True)
def registered_modules():
    """MMAction2's networks and transforms.  Its wheel lacks one module, of another task, that it imports."""
    missing = ModuleType("mmaction.models.localizers.drn.drn")
    vars(missing)["DRN"] = None
    sys.modules.setdefault("mmaction.models.localizers.drn", ModuleType("mmaction.models.localizers.drn"))
    sys.modules.setdefault(missing.__name__, missing)
    from mmaction.utils import register_all_modules

    register_all_modules()


def config_of(name: str):
    """One of MMAction2's own configs, without its initial weights."""
    from mmengine.config import Config

    config = Config.fromfile(CONFIGS / name)
    from_timm = config.model.backbone.type.startswith(("timm", "torchvision"))
    config.model.backbone.pretrained = False if from_timm else None
    return config


def build_theirs(config) -> torch.nn.Module:
    from mmaction.registry import MODELS

    torch.manual_seed(0)
    network = MODELS.build(copy.deepcopy(config.model))  # it takes the config apart
    network.init_weights()
    return network


def random_batches(*shape: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """uint8 clips of this shape, and labels."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(256, (NUM_VIDEOS, *shape), generator=generator, dtype=torch.uint8),
            torch.randint(NUM_CLASSES, (NUM_VIDEOS,), generator=generator),
        )
        for _ in range(STEPS_PER_EPOCH)
    ]


def train_theirs(network, config, batches) -> list[float]:
    """Losses of all updates, by mmengine's optimiser and schedule."""
    from mmaction.structures import ActionDataSample
    from mmengine.optim import MultiStepLR, build_optim_wrapper

    wrapper = build_optim_wrapper(network, config.optim_wrapper)
    schedule = MultiStepLR(wrapper.optimizer, list(SCHEDULE.milestones), SCHEDULE.gamma, by_epoch=True)
    losses = []
    for _ in range(SCHEDULE.epochs):
        network.train()
        for clips, labels in batches:
            samples = [ActionDataSample().set_gt_label(int(label)) for label in labels]
            data = network.data_preprocessor({"inputs": list(clips), "data_samples": samples}, training=True)
            loss, _ = network.parse_losses(network.loss(data["inputs"].double(), data["data_samples"]))
            wrapper.update_params(loss)
            losses.append(loss.item())
        schedule.step()
    return losses


def train_ours(network, optim: OptimConfig, model: ModelConfig, batches, *, norm_eval: bool) -> list[float]:
    optimizer = build_optimizer(network, optim, lr=LR)
    options = StepOptions(build_loss(model), grad_clip=optim.grad_clip, norm_eval=norm_eval)
    cpu, losses = torch.device("cpu"), []
    rates = [
        LR * lr_factor(step, steps_per_epoch=STEPS_PER_EPOCH, schedule=SCHEDULE)
        for step in range(SCHEDULE.epochs * STEPS_PER_EPOCH)
    ]
    for _ in range(SCHEDULE.epochs):
        tally, total = Tally(cpu), 0.0
        steps = train_epoch(
            network,
            [SimpleNamespace(clips=clips, labels=labels) for clips, labels in batches],
            optimizer,
            options,
            num_steps=STEPS_PER_EPOCH,
            before_step=lambda: set_lr(optimizer, rates[len(losses)]),
            tally=tally,
            waits=WaitTimer(cpu),
        )
        for _ in steps:
            losses.append((tally.state()[0] - total) / NUM_VIDEOS)
            total = tally.state()[0]
    return losses


@pytest.mark.parametrize(
    ("name", "modality", "norm_eval", "param_groups"),
    [(RGB, "rgb", False, "plain"), (RGB, "rgb", True, "tsm_fc_lr5"), (FLOW, "flow", False, "plain")],
)
def test_updates_are_the_same_to_rounding(name, modality, norm_eval, param_groups):
    config = config_of(name)
    config.model.backbone.update(depth=18, norm_eval=norm_eval)
    config.model.cls_head.update(in_channels=512, dropout_ratio=0)
    config.optim_wrapper.optimizer.lr = LR
    if param_groups == "tsm_fc_lr5":
        config.optim_wrapper.constructor = "TSMOptimWrapperConstructor"
        config.optim_wrapper.paramwise_cfg = {"fc_lr5": True}
    theirs = build_theirs(config).double()
    model = ModelConfig(num_classes=NUM_CLASSES, backbone="resnet18", dropout=0.0, modality=modality)
    ours = build_model(model, clip_len=5 if modality == "flow" else 1).double()
    load_weights(ours, rename_keys(theirs.state_dict()), source="MMAction2's", adapt=False)
    batches = random_batches(3, 10 if modality == "flow" else 3, 64, 64)

    expected = train_theirs(theirs, config, batches)
    fresh = ours.state_dict()["fc.weight"]
    assert (theirs.cls_head.fc_cls.weight - fresh).abs().max() > 1e-3  # so the tolerances below tell much
    if modality == "rgb":  # ours takes pixels, not planes
        batches = [(clips.permute(0, 1, 3, 4, 2), labels) for clips, labels in batches]
    optim = OptimConfig(param_groups=param_groups)
    losses = train_ours(ours, optim, model, batches, norm_eval=norm_eval)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for key, tensor in rename_keys(theirs.state_dict()).items():
        torch.testing.assert_close(ours.state_dict()[key], tensor, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize(
    ("row", "name", "channels", "size"),
    [
        ("tsn_r50_1x1x3_100e_kinetics400_rgb", RGB, 3, 64),
        ("tsn_r50_320p_1x1x3_110e_kinetics400_flow", FLOW, 10, 64),
        (
            "tsn_dense161_320p_1x1x3_100e_kinetics400_rgb",
            "custom_backbones/tsn_imagenet-pretrained-dense161_8xb32-1x1x3-100e_kinetics400-rgb.py",
            3,
            64,
        ),
        (
            "tsn_swin_transformer_video_320p_1x1x3_100e_kinetics400_rgb",
            "custom_backbones/tsn_imagenet-pretrained-swin-transformer_8xb32-1x1x3-100e_kinetics400-rgb.py",
            3,
            224,
        ),
    ],
)
def test_checkpoints_go_both_ways_and_give_the_same_logits(tmp_path, row, name, channels, size):
    from mmengine.runner import load_checkpoint, save_checkpoint

    config, own = config_of(name), load_config(row).config
    theirs = build_theirs(config).eval()
    with torch.no_grad():  # a fresh network hardly tells its inputs apart
        theirs.cls_head.fc_cls.weight.normal_(std=0.05)
        theirs.cls_head.fc_cls.bias.normal_()
    save_checkpoint({"meta": {"epoch": 3}, "state_dict": theirs.state_dict()}, str(tmp_path / "theirs.pth"))
    ours = build_model(own.model, clip_len=own.data.train.clip_len).eval()
    load_weights(ours, read_weights(tmp_path / "theirs.pth"), source="theirs", adapt=False)
    frames = torch.randn(1, 3, channels, size, size)
    with torch.inference_mode():
        expected = theirs.extract_feat(frames, stage="head", test_mode=True)[0]
        logits = ours.forward_normalized(frames)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected.reshape(logits.shape), rtol=1e-4, atol=1e-4)

    weights = {"state_dict": to_mmaction(ours.state_dict(), own.model.backbone)}
    save_checkpoint(weights, str(tmp_path / "ours.pth"))
    again = build_theirs(config)
    load_checkpoint(again, str(tmp_path / "ours.pth"), map_location="cpu", strict=True)
    state = theirs.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> tuple[Path, Path]:
    """A video of numbered frames, and its shards without loss to speak of."""
    folder = tmp_path_factory.mktemp("video")
    videos = write_video_list(folder, {"a.mp4": 47}, size=(340, 256))
    options = ("--size", "340x256", "--quality", "100", "--subsampling", "444")
    return videos.root / "a.mp4", pack_videos(videos, folder / "shards", *options)


@pytest.mark.parametrize(
    ("transform", "num_crops", "crop_size"),
    [("CenterCrop", 1, 224), ("ThreeCrop", 3, 256), ("TenCrop", 10, 224)],
)
def test_the_test_pipeline_sees_the_same_frames_and_crops(video, transform, num_crops, crop_size):
    from mmaction.datasets import transforms
    from mmengine.dataset import Compose

    steps = Compose(
        [
            transforms.DecordInit(),
            transforms.SampleFrames(clip_len=1, frame_interval=1, num_clips=25, test_mode=True),
            transforms.DecordDecode(),
            transforms.Resize(scale=(-1, 256)),
            getattr(transforms, transform)(crop_size=crop_size),
            transforms.FormatShape("NCHW"),
            transforms.PackActionInputs(meta_keys=("frame_inds",)),
        ]
    )
    path, shards = video
    sample = steps({"filename": os.fspath(path), "start_index": 0, "modality": "RGB", "label": 0})
    expected = sample["inputs"].permute(0, 2, 3, 1).int()  # (V, C, H, W) to (V, H, W, C)
    split = {"num_segments": 25, "num_crops": num_crops, "short_side": 256, "crop_size": crop_size}
    loader = eval_loader(shards, batch_size=1, **split)
    [batch] = list(loader)
    loader.close()
    assert batch.frame_indices[0].tolist() == sample["data_samples"].frame_inds.tolist()
    difference = (batch.clips[0].int() - expected).abs()
    assert difference.float().mean() < 0.7
    assert difference.max() <= 8
    own, other = batch.clips[0, :25, ::4, ::4].int(), expected[:25, ::4, ::4]  # of the first crop
    distances = (own[:, None] - other).abs().float().mean(dim=(2, 3, 4))
    assert distances.argmin(dim=1).tolist() == list(range(25))
