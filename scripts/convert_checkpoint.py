"""Checkpoints between MMAction2's names and ours, without executing anything that they contain.

    python scripts/convert_checkpoint.py theirs.pth ours.pt [--cfg ROW]
    python scripts/convert_checkpoint.py work/k400/best.pt theirs.pth --to mmaction

Reads checkpoints of this project, and those of MMAction2 0.x and 1.x, MMClassification, torchvision and timm.
With --cfg the weights must be those of that network; only the last layer may have other classes, and the
first one other channels: they are left fresh then.  What comes out holds weights alone, no optimiser: it
serves as model.pretrained, and eval.py --checkpoint tests it with --cfg.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import launch
from support.outputs import output_faults
from tsn.checkpoint import file_sha256, is_ours
from tsn.config import Config
from tsn.config_io import load_config
from tsn.errors import UserError
from tsn.files import write_atomically
from tsn.unpickling import load_without_executing
from tsn.weights import extract_weights, load_weights, to_mmaction


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SRC", help="the checkpoint to read")
    add("target", type=Path, metavar="DST", help="the file to write")
    add("--to", choices=("ours", "mmaction"), default="ours", help="whose names (default: %(default)s)")
    add("--cfg", metavar="NAME|PATH", help="a config or row: check that the weights are those of its network")
    add("--overwrite", action="store_true", help="replace DST where it exists")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_target(args.source, args.target, overwrite=args.overwrite)
    content = load_without_executing(args.source)
    config = load_config(args.cfg).config if args.cfg else None
    weights = extract_weights(content, source=str(args.source))
    print(f"read {args.source}: {describe(weights)}")
    for line in describe_left_out(content, weights):
        print(line)
    if config:
        weights, fate = fit(weights, config, source=str(args.source))
        print(f"{args.cfg}: {fate}")
    origin = {"path": str(args.source), "sha256": file_sha256(args.source)}
    if args.to == "mmaction":
        theirs = to_mmaction(weights, backbone=choose_backbone(content, config, source=str(args.source)))
        write(args.target, {"meta": {"converted_from": origin}, "state_dict": theirs})
    else:
        write(args.target, {"model": weights, "converted_from": origin})
    print(f"wrote {args.target}: {describe(weights)}, under the names of {args.to}")
    return 0


def check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything unasked, and over the source in any case; before anything is read."""
    if not source.is_file():
        raise UserError(f"{source}: no such checkpoint file")
    if target.exists() and target.samefile(source):
        raise UserError(f"{target}: is the checkpoint to read; name another file to write")
    if faults := output_faults({"target": target}, overwrite=overwrite):
        raise UserError("\n".join(faults))


def describe(weights: Mapping[str, Tensor]) -> str:
    """How many tensors and numbers there are, and of how many classes."""
    head = weights.get("fc.bias")
    classes = "no last layer" if head is None else f"{len(head)} classes"
    return (
        f"{len(weights)} tensors, {sum(tensor.numel() for tensor in weights.values()):,} numbers, {classes}"
    )


def describe_left_out(content: Any, weights: Mapping[str, Tensor]) -> list[str]:
    """What a file holds beside the weights that are kept."""
    inner = next((key for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), None)
    state = content[inner] if inner else content
    beside = sorted(str(key) for key in content if key != inner) if inner else []
    num_skipped = len(state) - len(weights)
    lines = [f"left out: {', '.join(beside)}"] if beside else []
    if num_skipped:
        lines.append(f"left out: {num_skipped} entries that are no weights of the network")
    return lines


def fit(weights: dict[str, Tensor], config: Config, *, source: str) -> tuple[dict[str, Tensor], str]:
    """The weights of the config's network, from `weights` where they fit it, and what became of its ends.

    Raises:
        UserError: they are of another network.
    """
    model = launch.build_network(config)
    fate = load_weights(model, weights, source=source, adapt=True)
    return model.state_dict(), fate


def choose_backbone(content: Any, config: Config | None, *, source: str) -> str:
    """The network that the names of MMAction2 depend on.

    Raises:
        UserError: neither a config nor the file tells.
    """
    if config:
        return config.model.backbone
    if is_ours(content):
        return content["config"]["model"]["backbone"]
    raise UserError(
        f"{source}: does not say of which network it is, and MMAction2's names depend on that; add --cfg"
    )


def write(path: Path, content: dict[str, Any]) -> None:
    plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in content.items()}
    write_atomically(path, lambda stream: torch.save(plain, stream))


if __name__ == "__main__":
    launch.run_main(main)
