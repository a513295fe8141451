"""What the entry points share: command line to config, processes, loaders and model.  Parsing and building
only."""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, NoReturn

import torch

from shards.manifest import Manifest, ShardError, check_files, load_manifest
from shards.reading import ShardDataset
from tsn.checkpoint import flat_settings
from tsn.config import Config
from tsn.config_faults import train_sources
from tsn.config_io import NamedConfig, config_to_dict, load_config
from tsn.data import Loader
from tsn.distributed import World, check_equal, pick_device, start_world, stop_world
from tsn.errors import UserError
from tsn.metrics import SINGLE_LABEL_METRICS, metric_of
from tsn.model import TSN, build_model

Split = Literal["train", "val", "test"]


def run_main(main: Callable[[], int]) -> None:
    """Run an entry point and leave with its exit code; what the user can put right ends as one message, code
    2."""
    try:
        _leave(main())
    except (UserError, ShardError) as error:
        rank = int(os.environ.get("RANK", 0))
        print(f"{f'rank {rank}: ' if rank else ''}error: {error}", file=sys.stderr)
        _leave(2)
    except Exception:
        traceback.print_exc()
        _leave(1)


def _leave(code: int) -> NoReturn:
    """End the process; under torchrun at once, because what an error leaves of a process group may wait for
    ever: its threads for Python's lock, and who holds that for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "RANK" in os.environ:
        os._exit(code)
    sys.exit(code)


def add_config_arguments(parser: argparse.ArgumentParser, *, cfg_required: bool = True) -> None:
    """The options that say what to run; read them with `parser.parse_intermixed_args`."""
    parser.add_argument(
        "--cfg",
        required=cfg_required,
        metavar="NAME|PATH",
        help="a YAML file, or the name of a packaged config such as k400.yaml",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="settings that replace those of the config, e.g. data.train.batch_size=64",
    )


def read_config(args: argparse.Namespace, extra: Sequence[str] = ()) -> NamedConfig:
    """The config that the options name; `extra` are overrides that other options stand for.

    Raises:
        UserError: there is no such config, or it or the overrides have faults; all of them are listed.
    """
    overrides = [*extra, *args.overrides]
    check_overrides(overrides)
    return load_config(args.cfg, overrides)


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse a setting that is given twice: which of the two was meant, nobody can tell."""
    values: dict[str, list[str]] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        values.setdefault(key, []).append(value)
    faults = [
        f"command line: {key}: given {len(given)} times ({', '.join(given)}); give it once"
        for key, given in values.items()
        if len(given) > 1
    ]
    if faults:
        raise UserError("\n".join(faults))


@contextmanager
def joined_world() -> Iterator[tuple[World, torch.device]]:
    """This process among all of the run, and the device it computes on; leaves the group at the end."""
    # torch's DDP and DALI warn about matters that no user of this project can change.
    warnings.filterwarnings("ignore", message=".*barrier.*", category=UserWarning)
    world = start_world()
    try:
        yield world, pick_device(world)
    finally:
        stop_world()


def build_network(config: Config) -> TSN:
    """The model with fresh weights, which are the same on every rank and in every run with this seed."""
    torch.manual_seed(config.train.seed)
    clip_len, channels_last = config.data.train.clip_len, config.train.channels_last
    return build_model(config.model, clip_len=clip_len, channels_last=channels_last)


def build_train_loader(config: Config, world: World) -> Loader:
    """The training batches of this rank, shuffled by the config's seed."""
    from dali_pipes.loader import build_train_loader as build

    with _refusals("data.train"):
        return build(config.data, seed=config.train.seed, **asdict(world))


def build_auxiliary_loaders(config: Config, world: World) -> list[Loader]:
    """The batches of this rank of each further source, in the order of `data.auxiliary`."""
    from dali_pipes.loader import build_train_loader as build

    seed, loaders = config.train.seed, []
    for i, source in enumerate(config.data.auxiliary, 1):
        with _refusals(f"data.auxiliary {source.name}"):
            loaders.append(build(replace(config.data, train=source.train), seed=seed + i, **asdict(world)))
    return loaders


def build_eval_loader(config: Config, split: Literal["val", "test"], world: World) -> Loader:
    """This rank's part of a split, each video once over all ranks."""
    from dali_pipes.loader import build_eval_loader as build

    with _refusals(f"data.{split}"):
        return build(config.data, getattr(config.data, split), **asdict(world))


@contextmanager
def _refusals(section: str) -> Iterator[None]:
    """What a loader refuses comes from the config, so the user can put it right."""
    try:
        yield
    except ShardError as error:
        raise UserError(f"{section}.shards: {error}") from error
    except ValueError as error:  # names its key
        source = f"{section}: " if section.startswith("data.auxiliary") else ""
        raise UserError(f"{source}{error}") from error


def sample_names(config: Config, split: Split) -> list[tuple[int, str]]:
    """(sample id, name) of every video of a split, in the order of ids."""
    dataset = ShardDataset(Path(getattr(config.data, split).shards))
    return sorted((int(key), name) for key, name in dataset.keys_and_names())


def check_shards(config: Config, splits: Sequence[Split]) -> dict[Split, Manifest]:
    """The manifests of the splits, after making sure that the shards are whole and fit the config.  With
    `train` the further sources are checked too.

    Raises:
        UserError: everything that is wrong with them, each with the config key that names the directory.
    """
    manifests: dict[str, Manifest] = {}
    faults: list[str] = []
    for section, directory in _directories(config, splits).items():
        try:
            manifest = load_manifest(Path(directory))
            check_files(Path(directory), manifest)
        except ShardError as error:
            faults.append(f"{section}.shards: {error}")
            continue
        manifests[section] = manifest
        faults += [f"{section}.shards: {directory} {fault}" for fault in _misfits(config, manifest)]
    faults += _different_classes(manifests)
    if faults:
        raise UserError("\n".join(faults))
    return {split: manifests[f"data.{split}"] for split in splits}


def check_agreement(
    config: Config, world: World, splits: Sequence[Split], more: Callable[[], dict[str, str]]
) -> None:
    """Make sure that all ranks run the same config on the same samples.  Machines may have them in different
    places, and other numbers of threads.

    Args:
        more: gives what else must be equal, by name; not called where there is one rank.

    Raises:
        UserError: something differs, on every rank.
    """
    if world.world_size == 1:
        return
    settings = flat_settings(config_to_dict(config))
    free = (".shards", "data.num_threads")
    facts = {key: value for key, value in settings.items() if not key.endswith(free)}
    for section, directory in _directories(config, splits).items():
        manifest = load_manifest(directory)
        facts[f"{section}.shards"] = f"{manifest.num_samples} samples of checksum {manifest.digest}"
    check_equal(world, facts | more())


def _directories(config: Config, splits: Sequence[Split]) -> dict[str, str]:
    """The shards of splits by section of the config; with `train` those of the further sources, too."""
    directories = {f"data.{split}": getattr(config.data, split).shards for split in splits}
    if "train" in splits:
        directories |= {section: train.shards for section, train in train_sources(config.data).items()}
    return directories


def _misfits(config: Config, manifest: Manifest) -> Iterator[str]:
    """In what a shard set does not fit the model."""
    if manifest.num_classes != config.model.num_classes:
        yield (
            f"holds {manifest.num_classes} classes, and model.num_classes is {config.model.num_classes}; "
            "set the one or name other shards"
        )
    if manifest.modality != config.model.modality:
        yield (
            f"holds {manifest.modality}, and model.modality is {config.model.modality}; set the one or name "
            "other shards"
        )
    if manifest.multi_label and config.model.loss != "bce":
        yield f"holds videos of several labels, and model.loss is {config.model.loss}; use model.loss=bce"
    best = config.train.best_metric
    if manifest.multi_label and best and metric_of(best) in SINGLE_LABEL_METRICS:
        yield f"holds videos of several labels, for which train.best_metric={best} does not exist; use null"


def _different_classes(manifests: dict[str, Manifest]) -> Iterator[str]:
    """Sets that number their classes differently, where both name them."""
    named = {section: manifest.classes for section, manifest in manifests.items() if manifest.classes}
    for section, classes in list(named.items())[1:]:
        first, expected = next(iter(named.items()))
        if list(classes) != list(expected):
            yield (
                f"{section}.shards: its class names differ from those of {first}.shards; pack both with one "
                "class file"
            )
