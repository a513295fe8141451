"""A recipe in words: what is stored, how it is trained, and how it is tested."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from tsn.config import AuxiliaryConfig, Config, EvalDataConfig, TrainDataConfig
from tsn.config_files import Combination
from tsn.optim import scaled_lr

_CROPS = {
    1: "the centre",
    3: "both ends and the middle of the long side",
    10: "corners and centre, each also mirrored",
}


@dataclass(frozen=True)
class Packing:
    """What make_shards.py reads for a directory of shards, beside the sizes."""

    list_name: str
    root: str
    options: str = ""


_PACKINGS = (
    (r"/web_images$", Packing("web_images.txt", "images/", "--source images")),
    (r"/untrimmed$", Packing("untrimmed.txt", "parts/", "--source parts")),
    (r"sthv1/", Packing("{split}.txt", "frames/", "--source frames --template {{:05}}.jpg")),
    (
        r"activitynet_clip_flow/",
        Packing(
            "{split}_clips.txt",
            "frames/",
            "--source flow --with-offset --template flow_{{}}_{{:05d}}.jpg --start-index 0",
        ),
    ),
    (
        r"activitynet_video_flow/",
        Packing("{split}.txt", "frames/", "--source flow --template flow_{{}}_{{:05d}}.jpg --start-index 0"),
    ),
    (
        r"activitynet_clip/",
        Packing(
            "{split}_clips.txt",
            "frames/",
            "--source frames --with-offset --template image_{{:05d}}.jpg --start-index 0",
        ),
    ),
    (r"_flow/", Packing("{split}.txt", "flow/", "--source flow")),
    (r"hvu_(?P<category>\w+)/", Packing("hvu_{split}.json", "videos/", "--category {category}")),
    (r"", Packing("{split}.txt", "videos/")),
)
"""By the directory of the shards, first match wins; file names as the data sets' own tools write them."""


def describe_recipe(name: str, config: Config, *, num_ranks: int) -> list[str]:
    """Lines of text on a recipe, for a run of `num_ranks` processes."""
    lines = [name, *_paragraph("published", _published(config.reference))]
    lines += _paragraph("network", _network(config))
    lines += _paragraph("training", _training(config.data.train))
    for source in config.data.auxiliary:
        lines += _paragraph(f"+ {source.name}", _auxiliary(source, config.data.auxiliary_every))
    lines += _paragraph("updates", _updates(config, num_ranks))
    lines += _paragraph("schedule", _schedule(config))
    every = f"every {_count(config.train.val_every_epochs, 'epoch')}"
    lines += _paragraph("validation", [every, *_testing(config.data.val)])
    lines += _paragraph("test", _testing(config.data.test))
    return [*lines, "", *_commands(name, config, num_ranks)]


def describe_combination(name: str, combination: Combination) -> list[str]:
    """Lines of text on a result of several networks, and the commands that join them."""
    lines = [name, *_paragraph("published", _published(combination.reference))]
    lines += [f"{'of':<11} {member}" for member in combination.members]
    if combination.by == "mean_of_metrics":
        lines += _paragraph("joined by", ["the mean of their metrics"])
        return [
            *lines,
            "",
            "python scripts/zoo.py list --results work   # shows it once each has its result.json",
        ]
    files = [f"work/{member}/scores.npz" for member in combination.members]
    weights = " ".join(f"{weight:g}" for weight in combination.weights)
    lines += _paragraph("joined by", [f"the sum of the raw scores of each video, weights {weights}"])
    for member, file in zip(combination.members, files, strict=True):
        lines += [
            "",
            f"python scripts/eval.py --cfg {member} --checkpoint work/{member}/best.pt --scores {file}",
        ]
    fuse = f"python scripts/fuse.py {' '.join(files)} --weights {weights} --name {name}"
    return [*lines, "", f"{fuse} --result work/{name}.json"]


def _paragraph(head: str, parts: list[str]) -> list[str]:
    """`head`, then the parts, one a line."""
    return [f"{head if not i else '':<11} {part}" for i, part in enumerate(parts)]


def _published(reference: dict[str, float | int | str]) -> list[str]:
    figures = [f"{name} {reference[name]}" for name in ("top1", "top5", "mAP") if name in reference]
    if "gpu_memory_mib" in reference:
        figures.append(f"{reference['gpu_memory_mib']} MiB a GPU")
    if "videos_per_s" in reference:
        figures.append(f"{reference['videos_per_s']} videos/s in testing")
    return [f"{', '.join(figures) or 'nothing'} ({reference.get('source', 'no source')})"]


def _network(config: Config) -> list[str]:
    model, clip_len = config.model, config.data.train.clip_len
    inputs = "RGB frames"
    if model.modality == "flow":
        inputs = f"{clip_len} frames of flow at once ({2 * clip_len} channels: x0 y0 x1 y1 ...)"
    loss = "cross entropy" if model.loss == "cross_entropy" else "binary cross entropy of several labels"
    weighted = f" x {model.loss_weight:g}" if model.loss_weight != 1 else ""
    smoothed = f", targets smoothed by {model.label_smoothing:g}" if model.label_smoothing else ""
    return [
        f"{model.backbone} on {inputs}, mean over the views, dropout {model.dropout:g}, "
        f"{model.num_classes} classes",
        f"initial weights {model.pretrained}, last layer normal with deviation {model.init_std:g}",
        f"{loss}{weighted}{smoothed}",
    ]


def _frames(data: TrainDataConfig | EvalDataConfig, *, random: bool) -> str:
    """Which frames of a video are read."""
    clips = "frame" if data.clip_len == 1 else f"clip of {data.clip_len} frames"
    step = f", every {data.frame_interval}. frame" if data.frame_interval > 1 and data.clip_len > 1 else ""
    if data.sampling == "dense":
        places = "from a random place"
        if isinstance(data, EvalDataConfig):
            places = f"from each of {data.dense_positions} places"
        return f"{_count(data.num_segments, clips)} spread over {data.dense_range} frames{step}, {places}"
    if data.sampling == "spread":
        return f"{_count(data.num_clips, clips)}{step}, at equal distances from the start to the end"
    if data.num_segments == 1:
        return f"a random {clips}{step}" if random else f"the middle {clips}{step}"
    place = "a random" if random or data.sampling == "random_segments" else "the middle"
    return f"{place} {clips}{step} of each of {_count(data.num_segments, 'equal segment')}"


def _training(data: TrainDataConfig) -> list[str]:
    scaled = _scaled(data)
    sides = ", ".join(f"{scale:g}" for scale in data.scales)
    low, high = data.area_range
    place = f"at one of {data.num_fixed_crops} places" if data.num_fixed_crops else "anywhere"
    windows = {
        "multi_scale": f"{place}, sides {sides} of the short side (MultiScaleCrop)",
        "random_resized": f"anywhere, {low:g} to {high:g} of the area (RandomResizedCrop)",
        "center": "in the centre",
    }
    parts = {
        "whole": [],
        "positive": ["of one positive part of the video"],
        "random": ["of any part of the video"],
    }
    jitter = (
        [f"brightness, contrast, saturation up to {data.color_jitter:g} off"] if data.color_jitter else []
    )
    balance = (
        []
        if data.class_balance is None
        else [f"classes drawn by their size to the power {data.class_balance:g}"]
    )
    return [
        _frames(data, random=True),
        *parts[data.parts],
        f"{scaled}; window {windows[data.crop]}, scaled to {_by(data.crop_size)}",
        f"mirrored with probability {data.flip:g}" if data.flip else "never mirrored",
        *jitter,
        *balance,
    ]


def _auxiliary(source: AuxiliaryConfig, every: int) -> list[str]:
    batches = f"{_count(source.batches, 'batch')} of {source.train.batch_size}"
    when = "every update" if every == 1 else f"the first of every {every} updates"
    return [
        f"after {when}: {batches}, each an update of its own",
        *_training(source.train),
    ]


def _testing(data: EvalDataConfig) -> list[str]:
    where = "a random place" if data.random_crop else _CROPS[data.num_crops]
    positions = f" x {data.dense_positions} places" if data.sampling == "dense" else " x 2" * data.twice
    clips = _count(data.num_segments, "clip" if data.clip_len > 1 else "frame")
    return [
        _frames(data, random=False),
        f"crops of {_by(data.crop_size)} from frames {_scaled(data)}: {where}",
        f"{clips}{positions} x {_count(data.num_crops, 'crop')} = {data.num_views} views",
    ]


def _updates(config: Config, num_ranks: int) -> list[str]:
    optim, train = config.optim, config.train
    per_rank = config.data.train.batch_size
    batch = per_rank * num_ranks * train.accumulate
    lr = scaled_lr(optim, global_batch_size=batch)
    published = f"{optim.lr:g} at {optim.base_batch_size}" if optim.scale_lr else f"{optim.lr:g} at any"
    accumulated = f" x {train.accumulate} passes" if train.accumulate > 1 else ""
    norms = [
        text
        for is_on, text in (
            (train.norm_eval, "BatchNorm keeps its statistics"),
            (train.sync_bn, "BatchNorm over all ranks"),
            (train.mixup, f"mixup {train.mixup:g}"),
            (train.ema, f"tested is a running mean of the weights, decay {train.ema:g}"),
        )
        if is_on
    ]
    groups = "" if optim.param_groups == "plain" else f", parameter groups {optim.param_groups}"
    clip = f"gradient clipped at {optim.grad_clip:g}" if optim.grad_clip else "gradient not clipped"
    return [
        f"{batch} videos an update ({per_rank} x {_count(num_ranks, 'rank')}{accumulated}): "
        f"learning rate {lr:g} ({published} videos)",
        f"SGD, momentum {optim.momentum:g}, weight decay {optim.weight_decay:g}{groups}, {clip}",
        *norms,
    ]


def _schedule(config: Config) -> list[str]:
    schedule = config.schedule
    rate = "constant rate"
    if schedule.kind == "cosine":
        rate = "cosine to zero"
    elif schedule.milestones:
        rate = f"rate x {schedule.gamma:g} at epochs {', '.join(map(str, schedule.milestones))}"
    warmup = f", warm-up of {schedule.warmup_epochs:g} epochs" if schedule.warmup_epochs else ""
    return [f"{_count(schedule.epochs, 'epoch')}, {rate}{warmup}"]


def _commands(name: str, config: Config, num_ranks: int) -> Iterator[str]:
    """What to type: packing each directory of shards, training, testing."""
    size = str(config.reference.get("stored", "source"))
    data = config.data
    directories = [data.train.shards, *(source.train.shards for source in data.auxiliary)]
    for shards in dict.fromkeys([*directories, data.val.shards, data.test.shards]):
        yield _packing_command(shards, size)
    yield f"torchrun --nproc-per-node {num_ranks} train.py --cfg {name}"
    files = f"--checkpoint work/{name}/best.pt --out work/{name}/result.json"
    yield f"python scripts/eval.py --cfg {name} {files}"


def _packing_command(shards: str, size: str) -> str:
    match, packing = next(
        (match, packing) for pattern, packing in _PACKINGS if (match := re.search(pattern, shards))
    )
    facts = {"split": PurePath(shards).name} | match.groupdict()
    options = [shlex.quote(word) for word in packing.options.format(**facts).split()]
    files = f"--list {packing.list_name.format(**facts)} --root {packing.root} --classes classes.txt"
    sized = [] if size == "source" else ["--size", size]
    return " ".join(["python scripts/make_shards.py", files, *options, *sized, "--out", shards])


def _scaled(data: TrainDataConfig | EvalDataConfig) -> str:
    """What becomes of the stored frames."""
    if data.frame_size:
        return f"scaled to {'fit into ' if data.keep_aspect else ''}{_by(data.frame_size)}"
    return f"scaled to short side {data.short_side}" if data.short_side else "as stored"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _count(number: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`, `2 clips of 5 frames`."""
    first, *rest = noun.split(" of ", 1)
    plural = first + ("es" if first.endswith("ch") and not first.endswith("epoch") else "s")
    return " of ".join([f"{number} {first if number == 1 else plural}", *rest])
