from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tsn.distributed import World
from tsn.engine import StepOptions, Tally, evaluate, train_epoch
from tsn.errors import UserError
from tsn.losses import LOSSES
from tsn.timing import WaitTimer

ALONE = World(rank=0, local_rank=0, world_size=1)
CPU = torch.device("cpu")


class ListLoader:
    """Batches from lists of sample ids; a clip's only pixel is its id, its label the id modulo 3."""

    def __init__(self, batches: list[list[int]], num_samples: int | None = None):
        self.batches = batches
        self.num_samples = sum(map(len, batches)) if num_samples is None else num_samples
        self.num_yielded = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for ids in self.batches:
            self.num_yielded += 1
            sample_ids = torch.tensor(ids)
            clips = sample_ids.to(torch.uint8).view(-1, 1, 1, 1, 1)
            yield SimpleNamespace(clips=clips, labels=sample_ids % 3, sample_ids=sample_ids)


class Linear(nn.Module):
    """Logits that are linear in the only pixel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(1, 3)

    def forward(self, clips):
        return self.layer(clips.flatten(1).float())


def train(model: nn.Module, loader: ListLoader, *, num_steps: int, **options) -> Tally:
    tally = Tally(CPU)
    steps = train_epoch(
        model,
        loader,
        torch.optim.SGD(model.parameters(), lr=1e-3),
        StepOptions(loss_fn=LOSSES["cross_entropy"], **options),
        num_steps=num_steps,
        before_step=lambda: None,
        tally=tally,
        waits=WaitTimer(CPU),
    )
    assert sum(1 for _ in steps) == num_steps
    return tally


def test_accumulated_small_batches_make_the_update_of_a_large_one():
    whole, parts = Linear(), Linear()
    train(whole, ListLoader([[1, 2, 3, 4]]), num_steps=1)
    train(parts, ListLoader([[1, 2], [3, 4]]), num_steps=1, accumulate=2)
    torch.testing.assert_close(parts.layer.weight, whole.layer.weight)


def test_batches_too_few_for_an_update_are_drawn_and_discarded():
    loader = ListLoader([[1], [2], [3]])
    tally = train(Linear(), loader, num_steps=1, accumulate=2)
    assert loader.num_yielded == 3
    assert tally.take(ALONE)[2] == 2


def test_the_loss_weight_multiplies_the_gradient():
    once, thrice = Linear(), Linear()
    start = Linear().layer.weight
    train(once, ListLoader([[1, 2]]), num_steps=1)
    train(thrice, ListLoader([[1, 2]]), num_steps=1, loss_weight=3.0)
    torch.testing.assert_close(thrice.layer.weight - start, 3 * (once.layer.weight - start))


def test_gradients_are_clipped_to_the_total_norm():
    model = Linear()
    before = [p.detach().clone() for p in model.parameters()]
    train(model, ListLoader([[200, 100]]), num_steps=1, grad_clip=0.5)
    moved = torch.cat([(p - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.5 * 1e-3, rel=1e-4)


class Normalized(nn.Module):
    """BatchNorm, then logits that are linear in the only pixel."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.linear = Linear()

    def forward(self, clips):
        return self.linear(self.norm(clips.flatten(1).float()))


@pytest.mark.parametrize("norm_eval", [True, False])
def test_batchnorm_keeps_its_statistics_and_is_trained_with_norm_eval(norm_eval):
    model = Normalized()
    train(model, ListLoader([[3, 4, 8]]), num_steps=1, norm_eval=norm_eval)
    assert model.training
    assert model.norm.training is not norm_eval
    assert (model.norm.running_mean.item() == 0) is norm_eval
    assert model.norm.weight.item() != 1


def test_mixup_blends_a_batch_with_itself_in_reverse(monkeypatch):
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.tensor(0.75))
    model, blended = Linear(), Linear()
    train(blended, ListLoader([[4, 8]]), num_steps=1, mixup=0.2)
    logits = model(torch.tensor([[5.0], [7.0]]))
    labels = torch.tensor([1, 2])
    losses = [nn.functional.cross_entropy(logits, target) for target in (labels, labels.flip(0))]
    (0.75 * losses[0] + 0.25 * losses[1]).backward()
    for parameter, moved in zip(model.parameters(), blended.parameters(), strict=True):
        torch.testing.assert_close(parameter - 1e-3 * parameter.grad, moved)


def test_a_tally_gives_means_over_videos_and_starts_over():
    tally = Tally(CPU)
    tally.add(torch.tensor(1.0), torch.eye(3), torch.tensor([0, 1, 0]))
    tally.add(torch.tensor(5.0), torch.eye(3)[:1], torch.tensor([0]))
    assert tally.take(ALONE) == (2.0, 0.75, 4)
    assert tally.take(ALONE) == (0.0, 0.0, 0)


def test_a_tally_goes_on_from_its_state():
    tally, other = Tally(CPU), Tally(CPU)
    tally.add(torch.tensor(3.0), torch.eye(3), torch.tensor([0, 1, 2]))
    other.restore(tally.state())
    assert other.take(ALONE) == tally.take(ALONE)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_tally_tells_losses_that_are_not_finite(loss):
    tally = Tally(CPU)
    assert tally.is_finite()
    tally.add(torch.tensor(loss), torch.eye(3), torch.tensor([0, 1, 2]))
    assert not tally.is_finite()


@pytest.mark.parametrize("batches", [[[4, 0, 3], [1, 2]], [[0], [1], [2], [3], [4]]])
def test_predictions_come_in_the_order_of_ids_whatever_the_batches(batches):
    model = Linear()
    predictions = evaluate(model, ListLoader(batches), world=ALONE, amp=True)
    assert predictions is not None
    assert predictions.sample_ids.tolist() == [0, 1, 2, 3, 4]
    assert predictions.labels.tolist() == [0, 1, 2, 0, 1]
    expected = model.layer(torch.arange(5.0)[:, None]).detach().numpy()
    np.testing.assert_allclose(predictions.scores, expected, atol=1e-5)
    assert predictions.scores.dtype == np.float32


def test_a_video_tested_twice_is_an_error():
    with pytest.raises(UserError, match=r"videos were tested twice: sample ids \[1\]"):
        evaluate(Linear(), ListLoader([[0, 1], [1]]), world=ALONE, amp=False)


def test_a_video_left_out_is_an_error():
    with pytest.raises(UserError, match="2 of 3 videos were tested; the loader left out the others"):
        evaluate(Linear(), ListLoader([[0, 1]], num_samples=3), world=ALONE, amp=False)


def test_a_loader_without_batches_is_an_error():
    with pytest.raises(UserError, match="no video was tested"):
        evaluate(Linear(), ListLoader([], num_samples=3), world=ALONE, amp=False)


def test_testing_ends_early_when_asked():
    loader = ListLoader([[0], [1], [2]])
    stopped = iter([False, True])
    assert evaluate(Linear(), loader, world=ALONE, amp=False, stopping=lambda: next(stopped)) is None
    assert loader.num_yielded == 2
