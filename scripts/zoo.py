"""The published results that this project reproduces, row by row.

    python scripts/zoo.py list [--dataset k400] [--results work]   what is published, and what was measured
    python scripts/zoo.py show ROW                                 a recipe in words, and what to type
    python scripts/zoo.py check [ROW ...] [--full-size]            try recipes on invented samples

`check` packs a few invented samples of the row's own kind, trains two steps of its network and loss, tests by
its protocol, and takes the weights to MMAction2's names and back.  Frames are small unless --full-size is
given.  Exit code 1: a row failed.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

import launch
from shards.manifest import ShardError
from shards.synthetic import SyntheticKind, write_synthetic
from tsn.config import Config, EvalDataConfig
from tsn.config_io import NamedConfig, config_from_dict, config_to_dict
from tsn.data import Loader
from tsn.distributed import World
from tsn.engine import Tally, evaluate
from tsn.errors import UserError
from tsn.metrics import compute_metrics, default_metrics
from tsn.recipe_text import describe_combination, describe_recipe
from tsn.run import Run
from tsn.weights import load_weights, read_weights, to_mmaction
from tsn.zoo import Row, compare, find_results, format_table, load_rows

SHRINK = 7
"""Sides are divided by this unless --full-size is given: crops of 224 become 32."""
NUM_STEPS, BATCH_SIZE = 2, 2
FAILURES = (UserError, ShardError, AssertionError, ValueError, TypeError, LookupError, RuntimeError)
"""With `CheckFailed` what ends the check of a row, but not that of the others."""


class CheckFailed(Exception):
    """A recipe does not do what it says; the message says what and what was expected."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the table of published rows")
    listing.add_argument("--dataset", metavar="NAME", help="only its rows, e.g. k400 or hvu")
    listing.add_argument(
        "--results", type=Path, metavar="DIR", help="compare with the result.json files in it"
    )
    showing = commands.add_parser("show", help="one recipe in words")
    showing.add_argument("row", help="name of a row, or a short name such as k400")
    showing.add_argument("--ranks", type=int, default=8, help="processes of the run (default: %(default)s)")
    checking = commands.add_parser("check", help="try recipes on invented samples")
    checking.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    checking.add_argument("--full-size", action="store_true", help="frames as large as in the recipe")
    args = parser.parse_args(argv)
    if args.command == "show" and args.ranks < 1:
        parser.error(f"--ranks {args.ranks}: expected 1 or more")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    match args.command:
        case "list":
            results = find_results(args.results) if args.results else []
            print("\n".join(format_table(compare(load_rows(dataset=args.dataset), results))))
        case "show":
            (row,) = load_rows([args.row])
            print("\n".join(describe(row, args.ranks)))
        case "check":
            return check(args.rows, full_size=args.full_size)
    return 0


def describe(row: Row, num_ranks: int) -> list[str]:
    """A row in words, for a run of `num_ranks` processes."""
    if isinstance(row.recipe, Config):
        return describe_recipe(row.name, row.recipe, num_ranks=num_ranks)
    return describe_combination(row.name, row.recipe)


def check(names: Sequence[str], *, full_size: bool) -> int:
    """Try the rows, one line of text each; the exit code."""
    rows = load_rows(names)
    failed, tried = 0, {}
    with TemporaryDirectory(prefix="tsn-zoo-") as folder, launch.joined_world() as (world, device):
        for row in rows:
            if not isinstance(row.recipe, Config):
                print(f"--    {row.name}: of {len(row.recipe.members)} rows, each checked on its own")
                continue
            trial = make_trial(row.name, row.recipe, Path(folder), full_size=full_size)
            if trial.fingerprint in tried:
                print(f"ok    {row.name}: as {tried[trial.fingerprint]}")
                continue
            started = time.perf_counter()
            try:
                text = trial.run(world, device)
            except (CheckFailed, *FAILURES) as error:
                failed += 1
                print(f"FAILED {row.name}: {type(error).__name__}: {error}", flush=True)
                continue
            tried[trial.fingerprint] = row.name
            print(f"ok    {row.name}: {text}, {time.perf_counter() - started:.1f} s", flush=True)
    print(f"{len(rows) - failed} of {len(rows)} rows passed")
    return 1 if failed else 0


@dataclass(frozen=True)
class Trial:
    """A recipe with invented samples in place of its data set."""

    named: NamedConfig
    folder: Path
    full_size: bool

    @property
    def fingerprint(self) -> str:
        """Equal for recipes that do the same."""
        data = config_to_dict(self.named.config)
        return json.dumps({key: value for key, value in data.items() if key != "reference"}, sort_keys=True)

    def run(self, world: World, device: torch.device) -> str:
        """Train, validate, test, convert; what was seen, in words.

        Raises:
            CheckFailed: the recipe does not do what it says.
        """
        config = self.named.config
        launch.check_shards(config, ("train", "val", "test"))
        auxiliary_loaders = launch.build_auxiliary_loaders(config, world)
        run = build_run(self.named, auxiliary_loaders, world, device, self.folder)
        if not self.full_size:
            accept_any_size(run.model)
        losses = train_steps(run)
        for loader in auxiliary_loaders:
            loader.close()
        views = {split: count_views(run, config, split, world) for split in ("val", "test")}
        num_tensors = convert_there_and_back(run, config, self.folder)
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
        return (
            f"{parameters:,} parameters, loss {' '.join(f'{loss:.4g}' for loss in losses)} "
            f"(chance {chance_loss(config):.4g}), "
            f"views {views['val']} and {views['test']}, {num_tensors} tensors converted"
        )


def make_trial(name: str, config: Config, folder: Path, *, full_size: bool) -> Trial:
    """The recipe on samples that are packed into `folder`, or lie there from another recipe."""
    data = config_to_dict(config)
    data["model"]["pretrained"] = "none"
    data["data"] |= {"num_threads": 1, "prefetch": 1}
    splits = data["data"]
    trained = [splits["train"], *(source["train"] for source in splits["auxiliary"])]
    for split in (*trained, splits["val"], splits["test"]):
        is_training = any(split is one for one in trained)
        split["batch_size"] = BATCH_SIZE if is_training else 1
        if not full_size:
            split["crop_size"] = [round(side / SHRINK) for side in split["crop_size"]]
            split["short_side"] = split["short_side"] and round(split["short_side"] / SHRINK)
        is_image = is_training and split is not splits["train"] and split["num_segments"] == 1
        kind = SyntheticKind(
            num_classes=config.model.num_classes,
            modality=config.model.modality,
            multi_label=config.model.loss == "bce",
            num_parts=0 if split.get("parts", "whole") == "whole" else 3,
            num_frames=1 if is_image else 70,
            width=340 if full_size else 64,
            height=256 if full_size else 48,
        )
        num_samples = NUM_STEPS * BATCH_SIZE if is_training else 1
        split["shards"] = str(pack_once(folder, kind, num_samples))
    return Trial(NamedConfig(name, config_from_dict(data, source=name)), folder, full_size)


def pack_once(folder: Path, kind: SyntheticKind, num_samples: int) -> Path:
    """The directory of such samples inside `folder`."""
    words = (num_samples, *(getattr(kind, name) for name in kind.__dataclass_fields__))
    directory = folder / "-".join(map(str, words))
    return directory if directory.exists() else write_synthetic(directory, kind, num_samples=num_samples)


def build_run(
    named: NamedConfig, auxiliary_loaders: list[Loader], world: World, device: torch.device, folder: Path
) -> Run:
    config = named.config
    return Run(
        named,
        model=launch.build_network(config),
        train_loader=launch.build_train_loader(config, world),
        val_loader=launch.build_eval_loader(config, "val", world),
        auxiliary_loaders=auxiliary_loaders,
        world=world,
        device=device,
        work_dir=folder,
    )


def accept_any_size(model: torch.nn.Module) -> None:
    """timm's Swin insists on the image size that it was made for, though no weight depends on it."""
    for module in model.modules():
        for attribute, value in (("strict_img_size", False), ("dynamic_mask", True)):
            if hasattr(module, attribute):
                setattr(module, attribute, value)


def train_steps(run: Run) -> list[float]:
    """Train the whole epoch of two steps; the mean loss on each source, which untrained weights leave near
    chance."""
    before = run.model.fc.weight.detach().clone()
    for _ in run.iter_steps():
        pass
    run.train_loader.close()
    if run.state.step != NUM_STEPS:
        raise CheckFailed(f"{run.state.step} updates were made, expected {NUM_STEPS}")
    parameters = run.model.named_parameters()
    idle = [name for name, tensor in parameters if tensor.grad is None or not tensor.grad.any()]
    if idle or torch.equal(run.model.fc.weight, before):
        raise CheckFailed(f"training does not reach every parameter: {', '.join(idle[:3]) or 'fc.weight'}")
    losses = [take_loss(run, "data.train", run.tally, NUM_STEPS)]
    rounds = NUM_STEPS // run.config.data.auxiliary_every
    return losses + [
        take_loss(run, source.name, source.tally, rounds * source.num_batches) for source in run.auxiliary
    ]


def take_loss(run: Run, source: str, tally: Tally, num_batches: int) -> float:
    """The mean loss on a source.

    Raises:
        CheckFailed: it is far from that of chance, or not of as many batches.
    """
    loss, _, num_videos = tally.take(run.world)
    if num_videos != num_batches * BATCH_SIZE:
        raise CheckFailed(f"{source}: trained on {num_videos} videos, expected {num_batches * BATCH_SIZE}")
    chance = chance_loss(run.config)
    # With norm_eval nothing normalises an untrained network, so its logits are not near zero.
    slack = 10 if run.config.train.norm_eval else 2
    if not chance / slack < loss < chance * slack:
        raise CheckFailed(f"{source}: an untrained network's loss is {loss:.4g}, expected about {chance:.4g}")
    return loss


def chance_loss(config: Config) -> float:
    """The loss of logits that are all zero."""
    per_video = math.log(config.model.num_classes) if config.model.loss == "cross_entropy" else math.log(2)
    return config.model.loss_weight * per_video


def count_views(run: Run, config: Config, split: Literal["val", "test"], world: World) -> int:
    """Test on a split by its protocol; the views of a video, counted where they enter the network."""
    loader = launch.build_eval_loader(config, split, world)
    shapes: set[tuple[int, ...]] = set()
    watch = run.model.register_forward_pre_hook(lambda _, inputs: shapes.add(tuple(inputs[0].shape[1:])))
    predictions = evaluate(run.model, loader, world=world, amp=config.train.amp)
    watch.remove()
    loader.close()
    assert predictions is not None, "one rank"
    compute_metrics(predictions.scores, predictions.labels, default_metrics(predictions.labels))
    if predictions.scores.shape[1] != config.model.num_classes:
        raise CheckFailed(
            f"{split}: {predictions.scores.shape[1]} scores, expected {config.model.num_classes}"
        )
    expected = {clip_shape(config, getattr(config.data, split))}
    if shapes != expected:
        raise CheckFailed(f"{split}: videos of shape {shapes} enter the network, expected {expected}")
    return expected.pop()[0]


def clip_shape(config: Config, data: EvalDataConfig) -> tuple[int, ...]:
    """Shape of a video as it enters the network: segments x positions x crops, and the size of each view."""
    width, height = data.crop_size
    if config.model.modality == "flow":
        return (data.num_views, 2 * data.clip_len, height, width)
    return (data.num_views * data.clip_len, height, width, 3)


def convert_there_and_back(run: Run, config: Config, folder: Path) -> int:
    """Write the weights as a file of MMAction2 and read them again; the number of tensors."""
    state: dict[str, Any] = {name: tensor.cpu().clone() for name, tensor in run.model.state_dict().items()}
    theirs = to_mmaction(state, backbone=config.model.backbone)
    path = folder / "theirs.pth"
    torch.save({"meta": {}, "state_dict": theirs}, path)
    for tensor in run.model.state_dict().values():
        tensor.zero_()
    load_weights(run.model, read_weights(path), source=str(path), adapt=False)
    differing = [
        name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor.cpu(), state[name])
    ]
    if differing:
        raise CheckFailed(f"{len(differing)} tensors come back changed: {', '.join(differing[:3])}")
    return len(theirs)


if __name__ == "__main__":
    launch.run_main(main)
