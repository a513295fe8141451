"""The packaged configs beside the published recipes, row by row and value by value."""

import dataclasses

import pytest
import yaml

from tsn.config_files import find_config, load_combination, packaged_aliases, packaged_configs, packaged_names
from tsn.config_io import load_config
from tsn.errors import UserError

DUPLICATE = {"kinetics400_omnisource#1": "tsn_r50_1x1x3_100e_kinetics400_rgb__omnisource_baseline"}
"""A row whose id another row has already."""

COMBINATIONS = {
    "tsn_r50_320p_1x1x3_kinetics400_twostream",
    "tsn_r50_320p_1x1x8_kinetics400_twostream",
    "hvu_all_tags_mean",
}
OF_OUR_OWN = {"mini", "k400_modern_r50_1x1x8"}

BACKBONES = {
    "mmcls.ResNeXt": "resnext101_32x4d",
    "torchvision.densenet161": "densenet161",
    "timm.swin_base_patch4_window7_224": "swin_base",
}
CROPS = {"CenterCrop": 1, "MultiGroupCrop": 1, "ThreeCrop": 3, "TenCrop": 10}
STORED = {"short side 256": "short256", "short side 320": "short320", "height 100": "height100"}
STORED |= {"height 240": "height240", "340x256": "340x256"}


def as_measured(row: dict) -> dict:
    """The row with the settings that its published figures were measured with (semantics.md, section 10)."""
    row = {**row, **row.get("metafile_linked_config_values", {})}
    era = row.get("seed_era_v0_17_values")
    if row["row"] == "diving48#2" or not isinstance(era, dict):  # it said 8 segments by mistake
        return row
    for split in ("train", "val", "test"):
        row[split] = {**row[split], **era.get(split, {})}
    return row


@pytest.fixture(scope="module")
def recipes(golden) -> list[dict]:
    rows = yaml.safe_load((golden.parent / "recipes.yaml").read_text())["rows"]
    assert len(rows) == 58
    return rows


@pytest.fixture(scope="module")
def rows(recipes) -> dict[str, dict]:
    """The rows of single networks by the names of their configs."""
    single = [row for row in recipes if row["id"] not in COMBINATIONS]
    return {DUPLICATE.get(row["row"], row["id"]): as_measured(row) for row in single}


ROWS = [name for name in packaged_configs() if name not in OF_OUR_OWN]


def op_of(ops: list[dict], *names: str) -> dict | None:
    return next((op for op in ops if op["op"] in names), None)


def expected_model(row: dict) -> dict:
    backbone, head = row["backbone"], row["head"]
    if row.get("load_from"):
        pretrained = row["load_from"]
    elif "ig1b_swsl" in row["id"]:
        pretrained = "swsl"
    else:
        pretrained = "timm" if backbone["type"].startswith("timm") else "imagenet_v1"
    return {
        "num_classes": row["num_classes"],
        "modality": row["modality"].lower(),
        "backbone": BACKBONES.get(backbone["type"], f"resnet{backbone['depth']}"),
        "pretrained": pretrained,
        "flow_init": "fresh",
        "dropout": head["dropout_ratio"],
        "init_std": head["init_std"],
        "loss": {"CrossEntropyLoss": "cross_entropy", "BCELossWithLogits": "bce"}[head["loss"]["type"]],
        "loss_weight": head["loss"]["loss_weight"],
        "label_smoothing": head["label_smooth_eps"],
    }


def expected_train_data(row: dict) -> dict:
    sampler, ops = row["train"]["sampler"], row["train"]["ops"]
    resize, flip = op_of(ops[:1], "Resize"), op_of(ops, "Flip")
    batch_size = row["videos_per_gpu"]
    expected = {
        "num_segments": sampler["num_clips"],
        "clip_len": sampler["clip_len"],
        "frame_interval": sampler["frame_interval"],
        "sampling": {"SampleFrames": "segments", "DenseSampleFrames": "dense"}[sampler["type"]],
        # hmdb51#3 names no batch size; its memory is that of 32 videos.
        "batch_size": batch_size if isinstance(batch_size, int) else 32,
        "short_side": resize["short_side"] if resize else None,
        "crop_size": next(tuple(op["exact_wh"]) for op in ops if "exact_wh" in op),
        "flip": flip["flip_ratio"] if flip else 0,
        "color_jitter": 0,
        "parts": "whole",
        "class_balance": None,
    }
    crop = op_of(ops, "MultiScaleCrop", "RandomResizedCrop")
    if crop["op"] == "RandomResizedCrop":
        areas = {"area_range": tuple(crop["area_range"]), "aspect_range": (3 / 4, 4 / 3)}
        return expected | {"crop": "random_resized"} | areas
    assert not crop["random_crop"]
    return expected | {
        "crop": "multi_scale",
        "scales": tuple(crop["scales"]),
        "max_scale_gap": crop["max_wh_scale_gap"],
        "num_fixed_crops": crop["num_fixed_crops"],
    }


def expected_eval_data(protocol: dict) -> dict:
    sampler, ops = protocol["sampler"], protocol["ops"]
    crop = op_of(ops, *CROPS)
    plain = "segments" if sampler["test_mode"] else "random_segments"
    return {
        "num_segments": sampler["num_clips"],
        "clip_len": sampler["clip_len"],
        "frame_interval": sampler["frame_interval"],
        "sampling": "dense" if sampler["type"] == "DenseSampleFrames" else plain,
        "short_side": op_of(ops, "Resize")["short_side"],
        "crop_size": (crop["crop_size"],) * 2,
        "num_crops": CROPS[crop["op"]],
        "random_crop": crop["op"] == "MultiGroupCrop",
        "num_views": protocol["views"],
    }


def expected_optim(row: dict) -> dict:
    optimizer = row["optimizer"]
    groups = optimizer["paramwise"]
    assert groups is None or groups == {"constructor": "TSMOptimizerConstructor", "fc_lr5": True}
    return {
        "lr": optimizer["lr"],
        "base_batch_size": row["lr_scaling"]["config_global_batch"] if row.get("lr_scaling") else 256,
        "momentum": optimizer["momentum"],
        "weight_decay": optimizer["weight_decay"],
        "grad_clip": row["grad_clip"]["max_norm"],
        "param_groups": "tsm_fc_lr5" if groups else "plain",
    }


def differences(section, expected: dict) -> dict:
    found = {name: getattr(section, name) for name in expected}
    return {name: (found[name], value) for name, value in expected.items() if found[name] != value}


def test_every_row_has_a_config(rows):
    assert set(ROWS) == set(rows)
    assert set(packaged_names()) == {*rows, *COMBINATIONS, *OF_OUR_OWN, *packaged_aliases()}


@pytest.mark.parametrize("name", ROWS)
def test_every_value_is_that_of_the_recipe(rows, name):
    config, row = load_config(name).config, rows[name]
    assert not differences(config.model, expected_model(row))
    assert not differences(config.data.train, expected_train_data(row))
    for split in ("val", "test"):
        assert not differences(getattr(config.data, split), expected_eval_data(row[split])), split
    assert not differences(config.optim, expected_optim(row))
    policy = row["lr_policy"]
    milestones = {"kind": policy["policy"], "milestones": tuple(policy["step_epochs"])}
    epochs = {"epochs": row["total_epochs"], "gamma": policy["gamma"], "warmup_epochs": 0}
    assert not differences(config.schedule, milestones | epochs)
    metrics = row.get("metrics_evaluated") or []
    train = {
        "sync_bn": row["backbone"]["norm"] == "SyncBN",
        "norm_eval": row["backbone"]["norm_eval"] is True,
        "val_every_epochs": row.get("eval_interval_epochs") or 5,
        "best_metric": "mmit_mean_average_precision" if metrics == ["mmit_mean_average_precision"] else None,
        "mixup": 0,
        "ema": 0,
        "accumulate": 1,
    }
    assert not differences(config.train, train)


@pytest.mark.parametrize("name", ROWS)
def test_the_reference_holds_the_published_figures(rows, name):
    reference, row = load_config(name).config.reference, rows[name]
    speed = row["seed"].get("inference_video_per_s")
    published = {
        "row": row["id"],
        "top1": row["seed"].get("top1"),
        "top5": row["seed"].get("top5"),
        "mAP": row["seed"].get("mAP"),
        "gpu_memory_mib": row["seed"].get("gpu_memory_M"),
        "videos_per_s": float(speed.split()[0]) if speed else None,
        "stored": STORED.get(row["resolution"], "source"),
    }
    assert {key: reference.get(key) for key in published} == published
    assert set(reference) <= {*published, "source"}


def test_auxiliary_sources_are_those_of_the_omnisource_rows(rows):
    with_sources = {name for name in ROWS if load_config(name).config.data.auxiliary}
    assert with_sources == {name for name, row in rows.items() if row.get("with_omnisource")}
    for name in with_sources:
        data = load_config(name).config.data
        batches = {source.name: source.train.batch_size for source in data.auxiliary}
        assert (data.auxiliary_every, batches) == (2, {"web_images": 64, "web_videos": 32, "untrimmed": 32})


@pytest.mark.parametrize("name", sorted(COMBINATIONS))
def test_results_of_several_networks_name_their_members(recipes, name):
    row = next(row for row in recipes if row["id"] == name)
    combination = load_combination(name)
    if "fusion" in row:
        assert combination.members == (row["fusion"]["rgb"], row["fusion"]["flow"])
        assert (combination.by, list(combination.weights)) == ("sum_of_scores", row["fusion"]["coefficients"])
    else:
        members = {other["id"] for other in recipes if other["dataset"] == "hvu"} - {name}
        assert (set(combination.members), combination.by) == (members, "mean_of_metrics")
    assert {key: combination.reference.get(key) for key in ("top1", "top5", "mAP")} == {
        key: row["seed"].get(key) for key in ("top1", "top5", "mAP")
    }
    with pytest.raises(
        UserError, match=rf"{name}.yaml: is the result of several networks.*{combination.members[1]}"
    ):
        load_config(name)


def test_a_short_name_is_the_config_it_stands_for_under_its_own_name():
    for short, name in packaged_aliases().items():
        named = load_config(short)
        assert (named.name, named.config) == (short, load_config(name).config)


def test_configs_say_only_what_differs_from_the_defaults():
    for name in ROWS:
        config, data = load_config(name).config, dict(find_config(name).data)
        del data["reference"]
        sections = {key: changed(getattr(config, key)) for key in ("model", "optim", "schedule", "train")}
        splits = {split: changed(getattr(config.data, split)) for split in ("train", "val", "test")}
        sections["data"] = changed(config.data) | splits
        assert all_keys(data) == {key: value for key, value in sections.items() if value}, name


def changed(section) -> dict:
    """The keys of a section whose value is not the default."""
    return {
        item.name: None
        for item in dataclasses.fields(section)
        if item.default is dataclasses.MISSING or getattr(section, item.name) != item.default
    }


def all_keys(data: dict) -> dict:
    return {key: all_keys(value) if isinstance(value, dict) else None for key, value in data.items()}
