"""A training run: what is trained, how far it is, and how it is saved, restored, logged and validated."""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tsn.auxiliary import Auxiliary
from tsn.checkpoint import Checkpoint, RunState, check_resumable, save_checkpoint
from tsn.config import Config, TrainConfig
from tsn.config_io import NamedConfig, config_to_dict
from tsn.data import Loader
from tsn.distributed import World, any_rank, from_main, gather_to_main
from tsn.engine import StepOptions, Tally, evaluate, train_epoch, update
from tsn.errors import UserError
from tsn.losses import build_loss
from tsn.metrics import compute_metrics, default_metrics, metric_of
from tsn.model import TSN
from tsn.optim import build_optimizer, scaled_lr, set_lr
from tsn.progress import Pace, RunLog
from tsn.randomness import random_state, restore_random_state, seed_rank
from tsn.recomputation import recompute_blocks
from tsn.schedules import lr_factor
from tsn.timing import WaitTimer
from tsn.weights import load_weights


class Run:
    """One training run on this rank.  `train.py` tells the order in which its methods are called."""

    def __init__(
        self,
        named: NamedConfig,
        *,
        model: TSN,
        train_loader: Loader,
        val_loader: Loader,
        auxiliary_loaders: Sequence[Loader] = (),
        world: World,
        device: torch.device,
        work_dir: Path,
        classes: Sequence[str] | None = None,
        val_set: str = "",
    ) -> None:
        """Take the model with its initial weights, and the loaders; `auxiliary_loaders` in the order of
        `data.auxiliary`.

        Args:
            classes: their names, for the checkpoint.
            val_set: tells validation sets apart.

        Raises:
            UserError: the training set has fewer videos than one update needs.
        """
        config = named.config
        self.named, self.config, self.world, self.work_dir = named, config, world, work_dir
        self.train_loader, self.val_loader = train_loader, val_loader
        self.steps_per_epoch = len(train_loader) // config.train.accumulate
        self.num_steps = self.steps_per_epoch * config.schedule.epochs
        self.global_batch_size = config.data.train.batch_size * world.world_size * config.train.accumulate
        self._check_number_of_videos()
        self.model = model.to(device)
        self.average = _running_mean(self.model, config.train.ema) if config.train.ema else None
        self.trained = _wrap(self.model, world, device, config.train)
        self.lr = scaled_lr(config.optim, global_batch_size=self.global_batch_size)
        self.optimizer = build_optimizer(self.model, config.optim, lr=self.lr)
        self.options = StepOptions(
            loss_fn=build_loss(config.model),
            loss_weight=config.model.loss_weight,
            accumulate=config.train.accumulate,
            grad_clip=config.optim.grad_clip,
            amp=config.train.amp,
            norm_eval=config.train.norm_eval,
            mixup=config.train.mixup,
        )
        self.auxiliary = [
            Auxiliary(source.name, loader, num_batches=source.batches, device=device)
            for source, loader in zip(config.data.auxiliary, auxiliary_loaders, strict=True)
        ]
        by_loss = "mean_average_precision" if config.model.loss == "bce" else "top1"
        self.best_metric = config.train.best_metric or by_loss
        self.classes = list(classes) if classes else None
        self.state = RunState(best_on=_best_on(config, val_set))
        self.tally, self.waits, self.pace = Tally(device), WaitTimer(device), Pace()
        self.steps_since_record = 0
        self.log: RunLog | None = None
        seed_rank(config.train.seed, world.rank)

    @property
    def epoch(self) -> int:
        """Whole epochs trained."""
        return self.state.step // self.steps_per_epoch

    @property
    def is_inside_epoch(self) -> bool:
        """False at the beginning, and after the last update of each epoch."""
        return self.state.step % self.steps_per_epoch != 0

    @property
    def is_finished(self) -> bool:
        """True after the last update of the last epoch."""
        return self.state.step >= self.num_steps

    @property
    def validation_is_due(self) -> bool:
        """True after an epoch that the config wants validated, until that is done."""
        wanted = self.epoch % self.config.train.val_every_epochs == 0 or self.is_finished
        return wanted and not self.is_inside_epoch and self.epoch > self.state.validated_epoch

    @property
    def record_is_due(self) -> bool:
        """True after every `log_every_steps` steps, and after the last."""
        return self.state.step % self.config.train.log_every_steps == 0 or self.is_finished

    @property
    def save_is_due(self) -> bool:
        """True inside an epoch after every `save_every_steps` steps, and at the ends of `save_every_epochs`
        epochs."""
        every_steps = self.config.train.save_every_steps
        if self.is_inside_epoch:
            return every_steps > 0 and self.state.step % every_steps == 0
        return (
            self.epoch % self.config.train.save_every_epochs == 0
            or self.is_finished
            or self.validation_is_due
        )

    def start_log(self, checkpoint: Checkpoint | None) -> None:
        """On rank 0: open the log, without what it holds of steps after the checkpoint."""
        if self.world.is_main:
            size = checkpoint.log_size_bytes if checkpoint else 0
            self.log = RunLog(self.work_dir, resume_size_bytes=size, resume_step=self.state.step)

    def iter_steps(self) -> Iterator[None]:
        """Make the updates that are left of this epoch, yielding after each."""
        self.pace.start()
        steps = train_epoch(
            self.trained,
            self.train_loader,
            self.optimizer,
            self.options,
            num_steps=self.steps_per_epoch - self.state.step % self.steps_per_epoch,
            before_step=lambda: set_lr(self.optimizer, self.lr * self._lr_factor(self.state.step)),
            tally=self.tally,
            waits=self.waits,
        )
        for _ in steps:
            if self.state.step % self.config.data.auxiliary_every == 0:
                self._train_on_auxiliary()
            self.state.step += 1
            self.steps_since_record += 1
            self.pace.count_step()
            if self.average:
                self.average.update_parameters(self.model)
            yield
        self.pace.stop()

    def _train_on_auxiliary(self) -> None:
        """Updates from the further sources, at the same learning rate; they are no steps of their own."""
        options = replace(self.options, accumulate=1)
        for source in self.auxiliary:
            for _ in range(source.num_batches):
                update(
                    self.trained,
                    source.batches,
                    self.optimizer,
                    options,
                    tally=source.tally,
                    waits=self.waits,
                )

    def write_record(self) -> None:
        """Tell how training went since the last record.

        Raises:
            UserError: the loss is infinite or not a number.
        """
        self._check_loss()
        loss, top1, num_videos = self.tally.take(self.world)
        losses = {"loss": loss}
        for source in self.auxiliary:
            loss, _, count = source.tally.take(self.world)
            losses |= {f"loss/{source.name}": loss} if count else {}
            num_videos += count
        steps, self.steps_since_record = self.steps_since_record, 0
        pace = self.pace.take(
            num_steps=steps,
            num_videos=num_videos,
            steps_left=self.num_steps - self.state.step,
            waited_s=self.waits.take(),
        )
        if self.log:
            where = {"epoch": (self.state.step - 1) // self.steps_per_epoch + 1, "step": self.state.step}
            lr = self.optimizer.param_groups[0]["lr"]
            rest = {"top1": top1, "lr": lr, "num_steps": self.num_steps}
            self.log.write("train", where | losses | rest | pace)

    def validate(self, stopping: Callable[[], bool]) -> bool:
        """Test the model on the validation set, and save it as best.pt if it is the best so far.

        Returns:
            False if it was ended early because `stopping()` became true on a rank; then nothing has changed.
        """
        started = time.perf_counter()
        predictions = evaluate(
            self._tested, self.val_loader, world=self.world, amp=self.config.train.amp, stopping=stopping
        )
        metrics = None
        if predictions is not None:
            names = dict.fromkeys((*default_metrics(predictions.labels), metric_of(self.best_metric)))
            metrics = compute_metrics(predictions.scores, predictions.labels, list(names))
        metrics = from_main(self.world, metrics)
        if metrics is None:
            return False
        if self.log:
            count = self.val_loader.num_samples
            speed = {"num_samples": count, "videos_per_s": count / (time.perf_counter() - started)}
            self.log.write("val", {"epoch": self.epoch, "step": self.state.step} | metrics | speed)
        value = metrics[self.best_metric]
        self.state.validated_epoch = self.epoch
        is_best = self.state.best is None or value > self.state.best
        if is_best:
            self.state.best, self.state.best_epoch = value, self.epoch
        self.save("best.pt", "last.pt") if is_best else self.save("last.pt")
        return True

    def save(self, *names: str) -> None:
        """Write the whole state, of every rank, to files of these names in the work directory.

        Raises:
            UserError: the loss or a weight is infinite or not a number; the files stay as they were.
        """
        self._check_loss()
        self._check_weights()
        own = {
            "loader": self.train_loader.state_dict(),
            "random": random_state(),
            "tally": self.tally.state(),
            "auxiliary": [source.state() for source in self.auxiliary],
            "steps_since_record": self.steps_since_record,
        }
        ranks = gather_to_main(self.world, own)
        if ranks is None or self.log is None:
            return
        checkpoint = Checkpoint(
            model=self._tested.state_dict(),
            trained=self.model.state_dict() if self.average else None,
            optimizer=self.optimizer.state_dict(),
            run=self.state,
            steps_per_epoch=self.steps_per_epoch,
            ranks=ranks,
            log_size_bytes=self.log.size_bytes,
            config_name=self.named.name,
            config=config_to_dict(self.config),
            classes=self.classes,
        )
        for name in names:
            save_checkpoint(self.work_dir / name, checkpoint)

    def restore(self, checkpoint: Checkpoint, *, source: str) -> None:
        """Go on where `checkpoint` was saved.

        Raises:
            UserError: it belongs to another run: another config, data set, model or number of ranks.
        """
        check_resumable(checkpoint, self.config, world_size=self.world.world_size, source=source)
        if checkpoint.steps_per_epoch != self.steps_per_epoch:
            raise UserError(
                f"{source}: cannot be resumed: its epochs have {checkpoint.steps_per_epoch} steps, and now "
                f"they have {self.steps_per_epoch}; data.train.shards is another set"
            )
        if checkpoint.run.step > self.num_steps:
            raise UserError(
                f"{source}: cannot be resumed: it is at step {checkpoint.run.step}, and schedule.epochs "
                f"{self.config.schedule.epochs} are {self.num_steps} steps; set more epochs"
            )
        own = checkpoint.ranks[self.world.rank]
        load_weights(self._tested, checkpoint.model, source=source, adapt=False)
        if self.average and checkpoint.trained:
            load_weights(self.model, checkpoint.trained, source=source, adapt=False)
            self.average.n_averaged.fill_(checkpoint.run.step)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        try:
            self.train_loader.load_state_dict(own["loader"])
            for auxiliary, state in zip(self.auxiliary, own["auxiliary"], strict=True):
                auxiliary.restore(state)
        except ValueError as error:
            raise UserError(f"{source}: cannot be resumed: {error}") from error
        self.tally.restore(own["tally"])
        self.steps_since_record = own["steps_since_record"]
        best_on, self.state = self.state.best_on, checkpoint.run
        if best_on != checkpoint.run.best_on:
            self.state = replace(checkpoint.run, best=None, best_epoch=0, best_on=best_on)
        restore_random_state(own["random"])

    def close(self) -> None:
        """Free the loaders' threads, and close the log."""
        for loader in (self.train_loader, self.val_loader, *(source.loader for source in self.auxiliary)):
            loader.close()
        if self.log:
            self.log.close()

    @property
    def _tested(self) -> nn.Module:
        """What is tested and saved as the model."""
        return self.average.module if self.average else self.model

    def _lr_factor(self, step: int) -> float:
        return lr_factor(step, steps_per_epoch=self.steps_per_epoch, schedule=self.config.schedule)

    def _check_number_of_videos(self) -> None:
        if self.steps_per_epoch == 0:
            train = self.config.train
            raise UserError(
                f"data.train.shards: {self.train_loader.num_samples} videos are fewer than one update needs: "
                f"{self.global_batch_size} (data.train.batch_size {self.config.data.train.batch_size} "
                f"x {self.world.world_size} ranks x train.accumulate {train.accumulate}); make one of them "
                "smaller"
            )

    def _check_loss(self) -> None:
        tallies = [self.tally, *(source.tally for source in self.auxiliary)]
        self._refuse_unless("the loss", all(tally.is_finite() for tally in tallies))

    def _check_weights(self) -> None:
        """A loss is of the weights before its update, which a gradient can ruin."""
        finite = torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()])
        self._refuse_unless("a weight", bool(finite.all()))

    def _refuse_unless(self, what: str, is_finite: bool) -> None:
        if any_rank(self.world, not is_finite):
            raise UserError(
                f"{what} is infinite or not a number, at step {self.state.step} or in the "
                f"{self.steps_since_record} before it; try a smaller optim.lr, schedule.warmup_epochs, or "
                f"train.amp=false.  Checkpoints in {self.work_dir} are from before"
            )


def _best_on(config: Config, val_set: str) -> str:
    """What a best value is comparable with: the set, and how it is tested."""
    settings = config_to_dict(config)["data"]["val"]
    changes_nothing = ("shards", "batch_size")
    return json.dumps([val_set, *((key, settings[key]) for key in settings if key not in changes_nothing)])


def _running_mean(model: TSN, decay: float) -> AveragedModel:
    """A copy of the model that follows it: the exponential mean of its weights and BatchNorm statistics."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _wrap(model: TSN, world: World, device: torch.device, config: TrainConfig) -> nn.Module:
    """The model as it is called in training: averaged over ranks, compiled, with common BatchNorm
    statistics."""
    # With norm_eval there are no statistics to synchronise.
    if config.sync_bn and not config.norm_eval and world.world_size > 1:
        if device.type != "cuda":
            raise UserError("train.sync_bn: needs GPUs; on the CPU use one rank, or train.sync_bn=false")
        model.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(model.backbone)
    if config.recompute:
        recompute_blocks(model.backbone)
    trained: Any = model
    if config.compile:  # for training alone: testing has other shapes, each of which would be compiled anew
        trained = torch.compile(model, dynamic=False)
    if world.world_size == 1:
        return trained
    devices = [device] if device.type == "cuda" else None
    # BatchNorm's statistics stay each rank's own in training, as in the reference; testing takes rank 0's.
    # torch 2.14 renames the option; the old name works in all versions.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
    return DistributedDataParallel(trained, devices, broadcast_buffers=False, gradient_as_bucket_view=True)
