"""Train a TSN: `torchrun train.py --cfg k400.yaml`, or `python train.py --cfg mini.yaml` in one process.

In the work directory: `config.yaml` (every setting that was in force), `log.jsonl`, `tensorboard/`, `last.pt`
(where to go on) and `best.pt` (the best validation so far).
"""

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

import launch
from tsn.checkpoint import Checkpoint, check_resumable, load_checkpoint
from tsn.config import Config
from tsn.config_io import NamedConfig, config_to_yaml
from tsn.distributed import World, barrier, max_over_ranks, on_main
from tsn.randomness import be_deterministic
from tsn.run import Run
from tsn.stopping import StopRequest, listen_for_stop
from tsn.weights import checksum, load_pretrained
from tsn.work_dir import WorkDirClaim, find_checkpoint


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a TSN.  Start it with torchrun to use several GPUs.")
    launch.add_config_arguments(parser)
    parser.add_argument("--work-dir", type=Path, help="where results go (default: work/NAME of the config)")
    parser.add_argument(
        "--resume", metavar="auto|PATH", help="go on from a checkpoint; auto: from last.pt, if any"
    )
    parser.add_argument("--seed", type=int, help="the same as train.seed=N")
    parser.add_argument("--deterministic", action="store_true", help="the same as train.deterministic=true")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    flags = [f"train.seed={args.seed}"] if args.seed is not None else []
    flags += ["train.deterministic=true"] if args.deterministic else []
    named = launch.read_config(args, flags)
    work_dir = args.work_dir or Path("work") / named.name
    with launch.joined_world() as (world, device):
        signum = run_training(named, work_dir, args.resume, world, device)
    return 128 + signum if signum else 0


def run_training(
    named: NamedConfig, work_dir: Path, resume: str | None, world: World, device: torch.device
) -> int:
    """The whole run on this rank; returns 0, or the number of the signal that ended it early.

    Nothing of it may outlive this function: DDP must be gone before its process group is.
    """
    with (
        closing(WorkDirClaim()) as claim,
        closing(build_run(named, work_dir, resume, world, device, claim)) as run,
        listen_for_stop() as stop,  # before there is a run to save, a signal ends the process
    ):
        signum = train(run, stop)
        report_end(run, signum)
    return signum


def build_run(
    named: NamedConfig,
    work_dir: Path,
    resume: str | None,
    world: World,
    device: torch.device,
    claim: WorkDirClaim,
) -> Run:
    """Check everything that can be checked, then build the run, or restore it."""
    config = named.config
    on_main(world, lambda: claim.take(work_dir))
    path, checkpoint = on_main(world, lambda: read_checkpoint(work_dir, resume, config, world))
    manifests = launch.check_shards(config, ("train", "val"))
    if config.train.deterministic:
        be_deterministic()
    else:
        torch.backends.cudnn.benchmark = True

    model = launch.build_network(config)
    origin = f"going on from {path}"
    if checkpoint is None:
        origin = load_pretrained(model, config.model)
    launch.check_agreement(config, world, ("train", "val"), lambda: {"initial weights": checksum(model)})
    run = Run(
        named,
        model=model,
        train_loader=launch.build_train_loader(config, world),
        val_loader=launch.build_eval_loader(config, "val", world),
        auxiliary_loaders=launch.build_auxiliary_loaders(config, world),
        world=world,
        device=device,
        work_dir=work_dir,
        classes=manifests["train"].classes,
        val_set=manifests["val"].digest,
    )
    if checkpoint:
        run.restore(checkpoint, source=str(path))

    barrier(world)  # nothing is written before every rank is ready
    on_main(world, lambda: claim.take(work_dir, create=True))
    if checkpoint and checkpoint.run.best is not None and run.state.best is None and world.is_main:
        print("data.val is not what best.pt was chosen on: the next validation writes a new one")
    if world.is_main:
        (work_dir / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
        print_start(run, origin)
    run.start_log(checkpoint)
    return run


def read_checkpoint(
    work_dir: Path, resume: str | None, config: Config, world: World
) -> tuple[Path | None, Checkpoint | None]:
    """Where to go on, if anywhere.  Other ranks get it from rank 0: they may not see its work directory."""
    path = find_checkpoint(work_dir, resume)
    if path is None:
        return None, None
    checkpoint = load_checkpoint(path)
    check_resumable(checkpoint, config, world_size=world.world_size, source=str(path))
    return path, checkpoint


def train(run: Run, stop: StopRequest) -> int:
    """Train to the end; returns 0, or the number of the signal that ended it early, after saving."""
    while True:
        if run.validation_is_due and not run.validate(stopping=lambda: stop.signum != 0):
            run.save("last.pt")
            return max_over_ranks(run.world, stop.signum)
        if run.is_finished:
            return 0
        for _ in run.iter_steps():
            if run.record_is_due:
                run.write_record()
            signum = max_over_ranks(run.world, stop.signum)
            if run.is_inside_epoch and (run.save_is_due or signum):
                run.save("last.pt")
            if run.is_inside_epoch and signum:
                return signum
        signum = max_over_ranks(run.world, stop.signum)
        if run.save_is_due or signum:
            run.save("last.pt")
        if signum:
            return signum


def print_start(run: Run, origin: str) -> None:
    config = run.config
    print(f"{origin}\nwork directory: {run.work_dir}")
    print(
        f"{run.train_loader.num_samples} videos, {run.steps_per_epoch} steps of {run.global_batch_size} "
        f"videos an epoch (batch_size {config.data.train.batch_size} x {run.world.world_size} ranks x "
        f"accumulate {config.train.accumulate}), {config.schedule.epochs} epochs"
    )
    scaling = f"optim.lr {config.optim.lr:g} at {config.optim.base_batch_size} videos an update"
    print(
        f"learning rate {run.lr:g}: {scaling}, {'scaled linearly' if config.optim.scale_lr else 'not scaled'}"
    )


def report_end(run: Run, signum: int) -> None:
    if not run.world.is_main:
        return
    if signum:
        print(f"stopped by signal {signum} at step {run.state.step}; go on with --resume auto")
        return
    print(
        f"finished: best {run.best_metric} {run.state.best:.4f} after epoch {run.state.best_epoch}: "
        f"{run.work_dir / 'best.pt'}"
    )


if __name__ == "__main__":
    launch.run_main(main)
