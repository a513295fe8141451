"""Test a TSN: `python scripts/eval.py --checkpoint work/k400/best.pt --test-crops 10`, alone or under
torchrun.

`--out result.json` keeps the metrics with the config and the checkpoint they came from, `--scores scores.npz`
the raw logits of every video by name.  `--from-scores scores.npz` computes metrics again without a model.
"""

import argparse
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import launch
from shards.wording import counted
from support.outputs import attempt, output_faults, print_lines, write_json
from tsn.checkpoint import file_sha256, is_ours, parse_checkpoint
from tsn.config import Config
from tsn.config_io import NamedConfig, config_from_dict, config_to_dict, load_config
from tsn.distributed import World
from tsn.engine import Predictions, evaluate
from tsn.errors import UserError
from tsn.metrics import (
    METRICS,
    MULTI_LABEL_METRICS,
    SINGLE_LABEL_METRICS,
    compute_metrics,
    default_metrics,
    metric_of,
)
from tsn.scores import Scores, check_finite, read_scores, write_scores
from tsn.unpickling import load_without_executing
from tsn.weights import extract_weights, load_weights


@dataclass(frozen=True)
class TestedModel:
    """What is tested: weights and where they came from, and the config that goes with them."""

    weights: dict[str, torch.Tensor]
    identity: dict[str, Any]
    """`path`, `sha256`, and for checkpoints of ours `epoch` and `step`."""
    named: NamedConfig
    classes: list[str] | None = None
    """Names of the classes in the order of the logits, where they are known."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Test a TSN, or compute metrics again from its scores.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint", type=Path, help="best.pt or last.pt of a run, or MMAction2's .pth (with --cfg)"
    )
    source.add_argument(
        "--from-scores",
        type=Path,
        nargs="+",
        metavar="NPZ",
        help="a file that --scores wrote; of several the mean of their metrics, as for the categories of HVU",
    )
    launch.add_config_arguments(parser, cfg_required=False)
    parser.add_argument(
        "--test-crops", type=int, choices=(1, 3, 10), help="crops a frame (data.test.num_crops)"
    )
    parser.add_argument(
        "--test-segments", type=int, metavar="N", help="segments a video (data.test.num_segments)"
    )
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the result here")
    parser.add_argument("--scores", type=Path, metavar="NPZ", help="write names, labels and raw logits here")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help=f"any of {', '.join(METRICS)}")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --out and --scores where they exist"
    )
    args = parser.parse_intermixed_args(argv)
    # --metrics takes all words up to the next option; overrides among them are told by their sign.
    args.overrides += [word for word in args.metrics or [] if "=" in word]
    words = [word for word in args.metrics or [] if "=" not in word]  # top1 is as good a name
    args.metrics = {}
    for word in words:
        args.metrics.setdefault(metric_of(word), word)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_names(args)
    if args.from_scores:
        result, lines = measure_again(args.from_scores, list(args.metrics))
        report(args, result, lines, faults=[])
        return 0

    tested = read_model(args)
    config = tested.named.config
    manifest = launch.check_shards(config, ("test",))["test"]
    check_classes(tested.classes, manifest.classes, f"data.test.shards: {config.data.test.shards}")
    if manifest.multi_label:
        check_metrics(args.metrics, f"data.test.shards: {config.data.test.shards}")
    names = launch.sample_names(config, "test") if writes_results() else []  # a fault in them shows now
    with launch.joined_world() as (world, device):
        launch.check_agreement(config, world, ("test",), lambda: {"checkpoint": tested.identity["sha256"]})
        model = launch.build_network(config)
        load_weights(model, tested.weights, source=str(args.checkpoint), adapt=False)
        loader = launch.build_eval_loader(config, "test", world)
        faults = []
        if world.is_main:
            lines = [describe_protocol(config, manifest.num_samples)]
            faults += attempt("standard output", partial(print_lines, lines))
        started = time.perf_counter()
        predictions = evaluate(model.to(device), loader, world=world, amp=config.train.amp)
        seconds = time.perf_counter() - started
        loader.close()
        if predictions is not None:
            finish(
                args,
                tested,
                predictions,
                names,
                seconds=seconds,
                world=world,
                device=device,
                faults=faults,
            )
    return 0


def check_names(args: argparse.Namespace) -> None:
    """Refuse unknown metrics and files that would be overwritten or cannot be written, before any work
    starts."""
    faults = [
        f"--metrics {n}: unknown; known are {', '.join(METRICS)}" for n in args.metrics if n not in METRICS
    ]
    if writes_results():
        faults += output_faults({"--out": args.out, "--scores": args.scores}, overwrite=args.overwrite)
    if args.from_scores and (
        args.scores or args.cfg or args.overrides or args.test_crops or args.test_segments is not None
    ):
        faults.append(
            "--from-scores: takes only --metrics, --out and --overwrite; there is nothing to configure"
        )
    if faults:
        raise UserError("\n".join(faults))


def writes_results() -> bool:
    """Whether this process is the one that writes; torchrun starts others beside it."""
    return int(os.environ.get("RANK", 0)) == 0


def check_metrics(asked: dict[str, str], source: str) -> None:
    """Refuse metrics, by the words that they were asked for with, that need one label a video."""
    words = [word for name, word in asked.items() if name in SINGLE_LABEL_METRICS]
    if words:
        raise UserError(
            f"--metrics {' '.join(words)}: for one label a video, and {source} holds videos of several; "
            f"use {' or '.join(MULTI_LABEL_METRICS)}"
        )


def check_classes(trained: Sequence[str] | None, tested: Sequence[str] | None, source: str) -> None:
    """Refuse a set that numbers its classes in another way than that of training, where both name them."""
    if not trained or not tested:
        return
    pairs = enumerate(zip(trained, tested, strict=False))
    if difference := next(((label, *names) for label, names in pairs if names[0] != names[1]), None):
        label, expected, found = difference
        raise UserError(
            f"{source}: class {label} is {found}, and {expected} in what the checkpoint was trained on; pack "
            "it with the class file of the training"
        )


def read_model(args: argparse.Namespace) -> TestedModel:
    """The weights of --checkpoint, with the config of --cfg or, without it, the one that the checkpoint
    holds."""
    content = load_without_executing(args.checkpoint)
    identity: dict[str, Any] = {"path": str(args.checkpoint), "sha256": file_sha256(args.checkpoint)}
    if not is_ours(content):
        if not args.cfg:
            raise UserError(
                f"{args.checkpoint}: is no checkpoint of train.py and holds no config; name one with --cfg"
            )
        return TestedModel(
            extract_weights(content, source=str(args.checkpoint)), identity, choose_protocol(args, None)
        )
    checkpoint = parse_checkpoint(content, source=str(args.checkpoint))
    identity |= {"epoch": checkpoint.epoch, "step": checkpoint.run.step}
    stored = NamedConfig(
        checkpoint.config_name, config_from_dict(checkpoint.config, source=str(args.checkpoint))
    )
    return TestedModel(checkpoint.model, identity, choose_protocol(args, stored), checkpoint.classes)


def choose_protocol(args: argparse.Namespace, stored: NamedConfig | None) -> NamedConfig:
    """The config with the overrides, and with the crops and segments asked for.

    Where --test-crops changes the number of crops and nobody names a crop size, it becomes the reference's:
    three crops are as large as the short side, one or ten as large as in training.
    """

    def read(*overrides: str) -> NamedConfig:
        if args.cfg:
            return load_config(args.cfg, overrides)
        assert stored is not None
        data = config_to_dict(stored.config)
        return NamedConfig(stored.name, config_from_dict(data, overrides, source=str(args.checkpoint)))

    flags = [f"data.test.num_segments={args.test_segments}"] if args.test_segments is not None else []
    flags += [f"data.test.num_crops={args.test_crops}"] if args.test_crops else []
    launch.check_overrides([*flags, *args.overrides])
    if args.test_crops:
        flags.append("data.test.random_crop=false")
        sized = any(override.startswith("data.test.crop_size=") for override in args.overrides)
        if not sized and read().config.data.test.num_crops != args.test_crops:
            # Read with a crop that fits everything: only short_side and the training's crop_size are wanted.
            data = read(*args.overrides, "data.test.num_crops=1", "data.test.crop_size=1").config.data
            short_side = min(data.test.frame_size) if data.test.frame_size else data.test.short_side
            if args.test_crops == 3 and short_side is None:
                raise UserError("--test-crops 3: they need data.test.short_side, which is null; set it")
            size = short_side if args.test_crops == 3 else list(data.train.crop_size)
            flags.append(f"data.test.crop_size={size}")
    return read(*flags, *args.overrides)


def describe_protocol(config: Config, num_samples: int) -> str:
    test = config.data.test
    segments, clips_of = counted(test.num_segments, "segment"), counted(test.num_segments, "clip")
    clips = {
        "segments": segments,
        "random_segments": f"{segments} at random",
        "dense": f"{clips_of} from each of {counted(test.dense_positions, 'place')}",
        "spread": f"{clips_of} from start to end",
    }
    width, height = test.crop_size
    frames = f"short side {test.short_side or 'as stored'}"
    if test.frame_size:
        frames = (
            f"frames {'inside' if test.keep_aspect else 'of'} {test.frame_size[0]} x {test.frame_size[1]}"
        )
    return (
        f"testing {counted(num_samples, 'video')} of {test.shards}: "
        f"{clips[test.sampling]}{' x 2' * test.twice} x {counted(test.num_crops, 'crop')}"
        f" of {width} x {height}, {frames}"
    )


def finish(
    args: argparse.Namespace,
    tested: TestedModel,
    predictions: Predictions,
    names: Sequence[tuple[int, str]],
    *,
    seconds: float,
    world: World,
    device: torch.device,
    faults: Sequence[str],
) -> None:
    """On rank 0: check that each video was tested and got scores, then write and print what can be.

    Args:
        faults: of what could not be printed before.

    Raises:
        UserError: other videos were tested, or scores are infinite or not a number: nothing is written.  Or
            an output could not be written, after all others were.
    """
    config = tested.named.config
    if [sample_id for sample_id, _ in names] != predictions.sample_ids.tolist():
        raise UserError(
            f"data.test.shards: the videos tested are not those listed in {config.data.test.shards}"
        )
    ordered = np.array([name for _, name in names])
    scores = Scores(str(args.checkpoint), ordered, predictions.labels, predictions.scores)
    check_finite(scores, "the model is broken; test another checkpoint")
    faults = list(faults)
    if args.scores:  # first: a fault in measuring does not cost the test
        write = partial(write_scores, args.scores, scores, overwrite=args.overwrite)
        faults += attempt(f"--scores {args.scores}", write)
    test, num_samples = config.data.test, len(predictions.sample_ids)
    result = {
        "num_samples": num_samples,
        "metrics": measure(predictions.scores, predictions.labels, list(args.metrics)),
        "videos_per_second": num_samples / seconds,
        "seconds": seconds,
        "views": test.num_views,
        "world_size": world.world_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": str(torch.__version__),
        "checkpoint": tested.identity,
        "config_name": tested.named.name,
        "config": config_to_dict(config),
    }
    report(args, result, [], faults=faults)


def measure(scores: NDArray, labels: NDArray, names: Sequence[str]) -> dict[str, float | None]:
    """The metrics, with null in place of NaN, which JSON does not have."""
    metrics = compute_metrics(scores, labels, names or default_metrics(labels))
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


def measure_again(paths: Sequence[Path], names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The result of one file of scores, or the mean over several; then with a line to print on each."""
    files = [read_scores(path) for path in paths]
    measured = [measure(file.scores, file.labels, names) for file in files]
    if any(metrics.keys() != measured[0].keys() for metrics in measured):
        raise UserError("--from-scores: some videos have one label and some several; name the --metrics")
    lines = []
    if len(paths) > 1:
        for path, metrics in zip(paths, measured, strict=True):
            lines.append(f"{path}: " + ", ".join(f"{n} {_text(value)}" for n, value in metrics.items()))
    result = {
        "num_samples": sum(len(file.labels) for file in files),
        "metrics": {name: _mean([metrics[name] for metrics in measured]) for name in measured[0]},
        "scores": [str(path) for path in paths],
    }
    return result, lines


def _mean(values: Sequence[float | None]) -> float | None:
    """None if one of them is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _text(value: float | None) -> str:
    return "undefined" if value is None else format(value, ".4f")


def report(
    args: argparse.Namespace, result: dict[str, Any], lines: Sequence[str], *, faults: Sequence[str]
) -> None:
    """Write the whole result to --out, and print the lines and the metrics.

    Args:
        faults: of outputs that could not be written before.

    Raises:
        UserError: some output could not be written; those of `faults` too.
    """
    faults = list(faults)
    if args.out:
        write = partial(write_json, args.out, result, overwrite=args.overwrite)
        faults += attempt(f"--out {args.out}", write)
    width, speed = max(map(len, result["metrics"])), result.get("videos_per_second")
    metrics = [f"{name:<{width}}  {_text(value)}" for name, value in result["metrics"].items()]
    size = counted(result["num_samples"], "video") + (f", {speed:.2f} videos/s" if speed else "")
    faults += attempt("standard output", partial(print_lines, [*lines, *metrics, size]))
    if faults:
        raise UserError("\n".join(faults))


if __name__ == "__main__":
    launch.run_main(main)
