"""The arithmetic of the networks, against the figures that were published for them."""

import pytest
import torch
from torch import nn

import launch
from support import bench_model
from tsn.model import TSN

# "FLOPs" in the model files (metafile.yml) of MMAction2 0.x: one row for each figure that differs.
PUBLISHED = {
    "tsn_r50_1x1x3_100e_kinetics400_rgb": 102_997_721_600,
    "tsn_r50_320p_1x1x3_100e_kinetics400_rgb": 134_527_385_600,
    "tsn_r50_320p_1x1x3_110e_kinetics400_flow": 109_881_868_800,
    "tsn_r50_dense_1x1x5_50e_kinetics400_rgb": 32_959_827_968,
    "tsn_rn101_32x4d_320p_1x1x3_100e_kinetics400_rgb": 262_238_208_000,
    "tsn_dense161_320p_1x1x3_100e_kinetics400_rgb": 255_225_561_600,
    "tsn_r50_video_1x1x8_100e_kinetics600_rgb": 134_527_795_200,
    "tsn_r50_video_1x1x8_100e_kinetics700_rgb": 134_528_000_000,
    "tsn_r50_1x1x3_75e_ucf101_rgb": 134_526_773_248,
    "tsn_r50_1x1x8_50e_hmdb51_imagenet_rgb": 43_048_605_696,
    "tsn_r50_video_1x1x8_100e_diving48_rgb": 32_959_107_072,
    "tsn_r50_video_1x1x16_100e_diving48_rgb": 32_959_107_072,
    "tsn_r50_1x1x8_50e_sthv1_rgb": 32_781_541_376,
    "tsn_r50_1x1x8_50e_sthv2_rgb": 32_959_365_120,
    "tsn_r50_1x1x16_50e_sthv2_rgb": 65_918_373_888,
    "tsn_r50_1x1x6_100e_mit_rgb": 32_287_070_208,
    "tsn_r101_1x1x5_50e_mmit_rgb": 51_249_301_504,
    "tsn_r50_320p_1x1x8_50e_activitynet_video_rgb": 134_526_976_000,
    "tsn_r50_320p_1x1x8_150e_activitynet_video_flow": 109_881_459_200,
    "tsn_r18_1x1x8_100e_hvu_action_rgb": 59_483_309_568,
    "tsn_r18_1x1x8_100e_hvu_scene_rgb": 59_483_058_176,
    "tsn_r18_1x1x8_100e_hvu_object_rgb": 59_483_790_336,
    "tsn_r18_1x1x8_100e_hvu_event_rgb": 59_482_966_528,
    "tsn_r18_1x1x8_100e_hvu_concept_rgb": 59_483_790_336,
    "tsn_r18_1x1x8_100e_hvu_attribute_rgb": 59_482_991_104,
}
# What the rule gives beyond the published figure, where that is not of the row's own test.
BEYOND_PUBLISHED = {
    # Counted with 8 segments, where the row tests with 16.
    "tsn_r50_video_1x1x16_100e_diving48_rgb": 8 * 4_119_876_096,
    # Without normalisation: two for each of the 11,113,984 inputs of a frame.
    "tsn_r50_1x1x8_50e_sthv1_rgb": 8 * 2 * 11_113_984,
    # The figure of the objects, 1678 classes and not 291.
    "tsn_r18_1x1x8_100e_hvu_concept_rgb": 512 * (291 - 1678),
}


def network_and_clips(row: str) -> tuple[str, TSN, torch.Tensor]:
    config = bench_model.read_row(row).config
    with torch.device("meta"):
        return config.model.backbone, launch.build_network(config), bench_model.one_crop_clips(config)


@pytest.mark.parametrize(("row", "published"), PUBLISHED.items())
def test_the_published_arithmetic_of_a_row_is_found_to_the_unit(row, published):
    backbone, model, clips = network_and_clips(f"{row}.yaml")
    counted = bench_model.count_by_published_rule(model, clips)
    assert counted == published + BEYOND_PUBLISHED.get(row, 0)
    shape = bench_model.frame_shape(clips, planar=model.planar)
    assert bench_model.PUBLISHED_G[backbone, shape] == round(counted / 1e9, 1)


class Small(nn.Module):
    """Layers of each kind that the rule tells apart, and arithmetic that it does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=True)
        self.plain_norm = nn.BatchNorm2d(6, affine=False)
        self.norm = nn.GroupNorm(2, 6)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.plain_norm(self.conv(x))))
        x = torch.relu(self.pool(self.relu(x))).mean((2, 3))
        return self.fc(x) @ torch.ones(5, 7)


def test_the_rule_counts_layers_by_kind_and_each_call():
    model = Small().train()
    images = torch.zeros(3, 4, 8, 10)
    inner = 3 * 6 * 8 * 10
    conv, norms, relus, pool, fc = inner * (2 * 3 * 3 + 1), inner + 2 * inner, 2 * inner, inner, 3 * 6 * 5
    assert bench_model.count_by_published_rule(model, images) == conv + norms + relus + pool + fc
    assert bench_model.count_macs(model, images) == inner * 2 * 3 * 3 + fc + 3 * 5 * 7
    assert model.training
    assert model.plain_norm.num_batches_tracked == 0, "counting does not train"


def test_the_table_shows_both_counts_beside_what_was_published_for_such_frames():
    (row,) = bench_model.describe_network(bench_model.read_row("k400.yaml")).rows
    assert row == {
        "network": "k400: resnet50",
        "parameters_m": 24.327632,
        "frames": "25 x 3 x 224 x 224",
        "macs": 102_179_225_600,
        "macs_g": "102.2",
        "by_rule": 102_997_721_600,
        "by_rule_g": "103.0",
        "published_g": "103.0",
    }


def test_frames_that_nothing_was_published_for_have_no_published_figure():
    named = bench_model.read_row("k400_flow.yaml", "data.test.num_segments=3")
    (row,) = bench_model.describe_network(named).rows
    assert row["frames"] == "3 x 10 x 224 x 224"
    assert row["published_g"] is None


def test_the_shape_of_frames_is_told_from_pixels_and_from_planes():
    pixels, planes = torch.zeros(1, 7, 5, 6, 3), torch.zeros(1, 7, 10, 5, 6)
    assert bench_model.frame_shape(pixels, planar=False) == (7, 3, 5, 6)
    assert bench_model.frame_shape(planes, planar=True) == (7, 10, 5, 6)
