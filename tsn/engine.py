"""One epoch of training, and one pass over a test set.  Plain loops; nothing here prints, writes or
decides."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tsn.data import Batch, Loader
from tsn.distributed import World, any_rank, broadcast_buffers, gather_to_main, sum_over_ranks
from tsn.errors import UserError
from tsn.losses import count_top1_hits
from tsn.timing import WaitTimer


class Tally:
    """Sums over the videos since the last log record.  They stay on the device, so that counting waits for
    nothing."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss, top-1 hits, videos

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of N videos whose mean loss is `loss`."""
        self._sums[0] += loss.detach() * len(labels)
        self._sums[1] += count_top1_hits(logits, labels)
        self._sums[2] += len(labels)

    def is_finite(self) -> bool:
        """False once a loss was infinite or not a number.  Waits for the device."""
        return bool(self._sums.isfinite().all())

    def take(self, world: World) -> tuple[float, float, int]:
        """Mean loss, top-1 accuracy and number of videos over all ranks; starts over.  Waits for the
        device."""
        loss, hits, videos = sum_over_ranks(world, self._sums).tolist()
        self._sums.zero_()
        return loss / max(videos, 1), hits / max(videos, 1), int(videos)

    def state(self) -> list[float]:
        """The sums, as plain numbers."""
        return self._sums.tolist()

    def restore(self, state: list[float]) -> None:
        """Go on from what `state` returned."""
        self._sums.copy_(torch.tensor(state, dtype=torch.float64))


@dataclass(frozen=True)
class StepOptions:
    """How an update is made."""

    loss_fn: Callable[[Tensor, Tensor], Tensor]
    """(logits, labels) to the mean loss of the batch."""
    loss_weight: float = 1.0
    """Factor of the loss."""
    accumulate: int = 1
    """Batches per update."""
    grad_clip: float = 0.0
    """Largest total L2 norm of the gradient; 0: not clipped."""
    amp: bool = False
    """bf16 autocast, on a GPU only."""
    norm_eval: bool = False
    """BatchNorm uses its running statistics and leaves them as they are."""
    mixup: float = 0.0
    """Videos are blended in pairs by a share from Beta(mixup, mixup); 0: not."""


def train_epoch(
    model: nn.Module,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    options: StepOptions,
    *,
    num_steps: int,
    before_step: Callable[[], None],
    tally: Tally,
    waits: WaitTimer,
) -> Iterator[None]:
    """Make the `num_steps` updates that are left of the loader's epoch, and yield after each.

    Batches that are left over, fewer than `accumulate`, are drawn and discarded.

    Args:
        before_step: called before each update, to set its learning rate.
        tally, waits: filled; the caller reads them when it logs.
    """
    model.train()
    if options.norm_eval:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    batches = iter(loader)
    for _ in range(num_steps):
        before_step()
        update(model, batches, optimizer, options, tally=tally, waits=waits)
        yield
    for _ in batches:
        continue


def update(
    model: nn.Module,
    batches: Iterator[Batch],
    optimizer: torch.optim.Optimizer,
    options: StepOptions,
    *,
    tally: Tally,
    waits: WaitTimer,
) -> None:
    """Make one update from the next `options.accumulate` batches, which `tally` counts."""
    optimizer.zero_grad(set_to_none=True)
    for part in range(options.accumulate):
        with waits:
            batch = next(batches)
        is_last = part == options.accumulate - 1
        with _gradients_stay_local(model) if not is_last else nullcontext():
            (_loss(model, batch, options, tally) / options.accumulate).backward()
    if options.grad_clip:
        nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)
    optimizer.step()


def _loss(model: nn.Module, batch: Batch, options: StepOptions, tally: Tally) -> Tensor:
    clips, share = batch.clips, 1.0
    if options.mixup:  # arXiv:1710.09412: the batch with itself in reverse, one share for all
        share = float(torch.distributions.Beta(options.mixup, options.mixup).sample())
        clips = torch.lerp(clips.flip(0).float(), clips.float(), share)
    with autocast(batch.clips.device, options.amp):
        logits = model(clips)
    logits = logits.float()
    loss = options.loss_fn(logits, batch.labels)
    if options.mixup:
        loss = share * loss + (1 - share) * options.loss_fn(logits, batch.labels.flip(0))
    loss = loss * options.loss_weight
    tally.add(loss, logits, batch.labels)
    return loss


@dataclass(frozen=True)
class Predictions:
    """The model's answers for a whole test set, in the order of sample ids."""

    sample_ids: NDArray[np.int64]
    """(N,) increasing."""
    labels: NDArray
    """(N,) int64 class ids, or (N, num_classes) uint8 multi-hot."""
    scores: NDArray[np.float32]
    """(N, num_classes) raw logits."""


def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    world: World,
    amp: bool,
    stopping: Callable[[], bool] = lambda: False,
) -> Predictions | None:
    """Test each video once; every rank must call this, with its part of the set.

    BatchNorm's running statistics are rank 0's on every rank first.

    Args:
        model: without DDP's wrapper, because ranks may have different numbers of batches.
        stopping: asked after each batch; True ends the pass early, on all ranks.

    Returns:
        The predictions on rank 0; None on other ranks, and everywhere if the pass was ended early.

    Raises:
        UserError: a video came twice, or some did not come.
    """
    broadcast_buffers(world, model)
    model.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    stopped = False
    with torch.inference_mode():
        for batch in loader:
            with autocast(batch.clips.device, amp):
                logits = model(batch.clips)
            parts.append((batch.sample_ids, batch.labels, logits.float()))
            if stopped := stopping():
                break
    if any_rank(world, stopped):
        return None
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    gathered = gather_to_main(world, columns)
    return None if gathered is None else _in_order([c for c in gathered if c], loader.num_samples)


def _in_order(columns: list[list[NDArray]], num_samples: int) -> Predictions:
    """Join the ranks' (sample_ids, labels, scores) and prove that each video is there once."""
    if not columns:
        raise UserError("no video was tested: the loader gave no batch")
    sample_ids, labels, scores = (np.concatenate(column) for column in zip(*columns, strict=True))
    distinct, counts = np.unique(sample_ids, return_counts=True)
    if np.any(counts > 1):
        raise UserError(f"videos were tested twice: sample ids {distinct[counts > 1][:10].tolist()}")
    if len(sample_ids) != num_samples:
        raise UserError(
            f"{len(sample_ids)} of {num_samples} videos were tested; the loader left out the others"
        )
    order = np.argsort(sample_ids)
    return Predictions(sample_ids[order], labels[order], scores[order])


def autocast(device: torch.device, amp: bool) -> torch.autocast:
    """bf16 on a GPU if `amp`; the CPU always computes in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp and device.type == "cuda")


def _gradients_stay_local(model: nn.Module):
    """Within it, DDP does not average gradients over the ranks: more of the same update are to come."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
