"""The packaged configs beside the published recipes, value by value."""

import pytest
import yaml

from tsn.config_io import load_config

ROWS = {
    "k400": "tsn_r50_1x1x3_100e_kinetics400_rgb",
    "ucf101": "tsn_r50_1x1x3_75e_ucf101_rgb",
    "hmdb51": "tsn_r50_1x1x8_50e_hmdb51_imagenet_rgb",
}


@pytest.fixture(scope="module")
def recipes(golden):
    rows = yaml.safe_load((golden.parent / "recipes.yaml").read_text())["rows"]
    first = {}
    for row in rows:
        first.setdefault(row["id"], row)
    return first


def op_of(ops: list[dict], *names: str) -> dict:
    return next(op for op in ops if op["op"] in names)


@pytest.mark.parametrize("name", ROWS)
def test_model_and_schedule_are_those_of_the_recipe(recipes, name):
    config, row = load_config(name).config, recipes[ROWS[name]]
    assert config.model.num_classes == row["num_classes"]
    assert config.model.backbone == f"resnet{row['backbone']['depth']}"
    assert (config.model.pretrained, row["backbone"]["pretrained"]) == (
        "imagenet_v1",
        "torchvision://resnet50",
    )
    assert config.model.dropout == row["head"]["dropout_ratio"]
    assert config.model.init_std == row["head"]["init_std"]
    assert (config.model.loss, row["head"]["loss"]["type"]) == ("cross_entropy", "CrossEntropyLoss")
    assert config.model.loss_weight == row["head"]["loss"]["loss_weight"]

    optimizer = row["optimizer"]
    assert config.optim.lr == optimizer["lr"]
    assert config.optim.momentum == optimizer["momentum"]
    assert config.optim.weight_decay == optimizer["weight_decay"]
    assert config.optim.grad_clip == row["grad_clip"]["max_norm"]
    assert config.optim.base_batch_size == row["lr_scaling"]["config_global_batch"]
    assert config.schedule.kind == row["lr_policy"]["policy"]
    assert list(config.schedule.milestones) == row["lr_policy"]["step_epochs"]
    assert config.schedule.gamma == row["lr_policy"]["gamma"]
    assert config.schedule.warmup_epochs == 0
    assert config.schedule.epochs == row["total_epochs"]
    assert config.train.val_every_epochs == row["eval_interval_epochs"]


@pytest.mark.parametrize("name", ROWS)
def test_training_data_are_those_of_the_recipe(recipes, name):
    train, row = load_config(name).config.data.train, recipes[ROWS[name]]
    sampler, ops = row["train"]["sampler"], row["train"]["ops"]
    assert train.num_segments == sampler["num_clips"]
    assert (train.clip_len, train.frame_interval) == (sampler["clip_len"], sampler["frame_interval"])
    assert train.batch_size == row["videos_per_gpu"]
    assert train.short_side == op_of(ops, "Resize")["short_side"]
    assert [train.crop_size] * 2 == next(op["exact_wh"] for op in ops if "exact_wh" in op)
    assert train.flip == op_of(ops, "Flip")["flip_ratio"]
    crop = op_of(ops, "MultiScaleCrop", "RandomResizedCrop")
    if crop["op"] == "MultiScaleCrop":
        assert train.crop == "multi_scale"
        assert list(train.scales) == crop["scales"]
        assert (train.max_scale_gap, train.num_fixed_crops) == (
            crop["max_wh_scale_gap"],
            crop["num_fixed_crops"],
        )
        assert (crop["random_crop"], crop["input_size"]) == (False, train.crop_size)
    else:
        assert train.crop == "random_resized"
        assert list(train.area_range) == crop["area_range"]
        assert list(train.aspect_range) == pytest.approx(crop["aspect_ratio_range"])


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("name", ROWS)
def test_testing_protocols_are_those_of_the_recipe(recipes, name, split):
    data, row = getattr(load_config(name).config.data, split), recipes[ROWS[name]][split]
    assert data.num_segments == row["sampler"]["num_clips"]
    assert (data.clip_len, data.frame_interval) == (
        row["sampler"]["clip_len"],
        row["sampler"]["frame_interval"],
    )
    assert data.short_side == op_of(row["ops"], "Resize")["short_side"]
    crop = op_of(row["ops"], "CenterCrop", "ThreeCrop", "TenCrop")
    assert data.crop_size == crop["crop_size"]
    assert data.num_crops == {"CenterCrop": 1, "ThreeCrop": 3, "TenCrop": 10}[crop["op"]] == row["crops"]
    assert data.num_segments * data.clip_len * data.num_crops == row["views"]


@pytest.mark.parametrize("name", ROWS)
def test_the_reference_holds_the_published_figures(recipes, name):
    reference, row = load_config(name).config.reference, recipes[ROWS[name]]
    assert reference["row"] == row["id"]
    published = row["seed"]
    assert (reference["top1"], reference["top5"]) == (published["top1"], published["top5"])
    assert reference["gpu_memory_mib"] == published["gpu_memory_M"]
