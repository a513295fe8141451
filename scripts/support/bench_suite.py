"""The tables of `benchmark.py model`, `train`, `test` and `all`: which measurements stand in which line."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import launch
from shards.manifest import load_manifest
from support.bench_inputs import Packing, find_videos
from support.bench_model import (
    ONE_PROCESS,
    TEST_COLUMNS,
    describe_network,
    published,
    read_row,
    time_model,
    time_test,
    views_of,
)
from support.bench_pipeline import pack_all
from support.bench_report import NO_GPU, OUT_OF_TIME, Row, Section, best_of, failure
from support.bench_training import (
    CUDA_GRAPHS,
    TRAIN_COLUMNS,
    EndlessLoader,
    arithmetic_rate,
    profile_steps,
    time_checkpoint,
    time_real,
    time_synthetic,
    time_to_first_step,
    training_flops,
)
from support.measuring import Budget
from tsn.config import BACKBONES

Settings = tuple[str, ...]
"""Overrides of a config, `section.key=value`."""

DEFAULT_ROW = "k400.yaml"
REAL = (Packing(), Packing("h264"))
"""What is trained on: the packings that a user would choose between."""
AIMS = {
    "feed efficiency, 3 segments": 0.97,
    "feed efficiency, 8 segments": 0.97,
    "training ResNet-50 in bf16, images/s": 3000.0,
    "testing 25 x 10 crops with decoding, videos/s": 40.0,
    "GPU idle in 50 steps, at most": 0.03,
}


@dataclass(frozen=True)
class Suite:
    """What all tables share.

    Attributes:
        cfg, overrides: the row, and what the user sets otherwise.
        shards: the packed input, by packing.
        budget: after which what is left is listed as not measured.
        seconds: of a measurement.
        on_gpu: without one, a few small lines stand for all.
        save: keeps the tables so far, in case that a later line takes the process with it.
    """

    cfg: str
    overrides: Settings
    shards: dict[Packing, Path]
    budget: Budget
    seconds: float
    on_gpu: bool
    save: Callable[[list[Section]], None] = lambda sections: None

    @property
    def long_s(self) -> float:
        """For what is compared closely."""
        return 5 * self.seconds

    def attempt(self, measure: Callable[[], Row], *, needs_gpu: bool = True, needs_s: float = 0.0) -> Row:
        """What `measure` finds, or why it found nothing: one line that fails spares the others'."""
        if needs_gpu and not self.on_gpu:
            return {"status": NO_GPU}
        if self.budget.left_s < needs_s:
            return {"status": OUT_OF_TIME}
        try:
            return measure()
        except Exception as error:
            return {"status": failure(error)}

    def row(self, *settings: str, packing: Packing = REAL[0]) -> Any:
        """The config with these settings, on the packed input; those of the user come last."""
        directory = self.shards[packing]
        shards = [f"data.{split}.shards={directory}" for split in ("train", "val", "test")]
        return read_row(self.cfg, *shards, *settings, *self.overrides)


def run_suite(
    command: str,
    cfg: str | None,
    overrides: Sequence[str],
    *,
    quick: bool,
    profile: bool,
    limit_s: float,
    save: Callable[[list[Section]], None],
) -> list[Section]:
    """The tables of a command; `save` is given those that are there, again and again."""

    def make_suite(shards: dict[Packing, Path]) -> Suite:
        seconds = 0.5 if quick else 2.0
        on_gpu = torch.cuda.is_available()
        return Suite(cfg or DEFAULT_ROW, tuple(overrides), shards, budget, seconds, on_gpu, save)

    budget = Budget(limit_s)
    if command == "model":
        suite = make_suite({REAL[0]: Path("unused")})
        return [describe_network(suite.row()), model_table(suite, [()])]
    with TemporaryDirectory(prefix="tsn-bench-") as folder:
        suite = make_suite(pack_all(find_videos(Path(folder)), set(REAL), Path(folder)))
        match command:
            case "test":
                return [model_table(suite, [()]), test_table(suite, [()])]
            case "train":
                training, efficiency = train_tables(suite, [()])
                training.rows += compiled_lines(suite, [()])
                sections = [training, efficiency]
                return [*sections, profile_table(suite, (), 50)] if profile else sections
            case _:
                return all_tables(suite, Path(folder))


def all_tables(suite: Suite, folder: Path) -> list[Section]:
    """Everything; torch.compile takes most time and comes last."""
    if not suite.on_gpu:
        small: Settings = ("data.train.batch_size=2", "data.val.batch_size=2", "data.test.batch_size=1")
        one_crop = (*small, "data.test.num_crops=1", "data.test.crop_size=224", "data.test.short_side=256")
        base: list[Settings] = [small]
        others: list[Settings] = []
        protocols: list[Settings] = [one_crop]
    else:
        small = ("data.train.batch_size=128",)
        base = [small, ("data.train.num_segments=8", "data.train.batch_size=48")]
        others = [(f"data.train.batch_size={size}",) for size in (32, 64, 256)]
        ten = ("data.test.num_segments=25", "data.test.num_crops=10")
        three = ("data.test.num_segments=25", "data.test.num_crops=3", "data.test.crop_size=256")
        protocols = [(*crops, f"train.amp={amp}") for crops in (ten, three) for amp in ("true", "false")]
    sections = [describe_network(suite.row())]

    def add(*found: Section) -> None:
        sections.extend(found)
        suite.save(sections)

    training, efficiency = train_tables(suite, base, others=others)
    add(training, efficiency)
    test = test_table(suite, protocols)
    add(test)
    profiled = profile_table(suite, small, 50 if suite.on_gpu else 2)
    add(profiled)
    add(model_table(suite, protocols))
    add(memory_table(suite))
    add(times_table(suite, small, folder))
    add(backbone_table(suite))
    for row in compiled_lines(suite, base):
        training.rows.append(row)
        suite.save(sections)
    return [aims_table(training, efficiency, test, profiled), *sections]


def train_tables(
    suite: Suite, base: Sequence[Settings], *, others: Sequence[Settings] = ()
) -> tuple[Section, Section]:
    """Training on synthetic and real batches, and what share of the former's speed the latter reach.

    base: settings to train with on both, for long enough to tell them apart; others: on synthetic ones alone.
    """
    training = Section("Training", TRAIN_COLUMNS)
    efficiency = Section(
        "Feed efficiency: real over synthetic batches",
        {"variant": "variant", "efficiency": "feed efficiency"},
    )
    peak = arithmetic_rate()
    synthetic, real = partial(time_synthetic, seconds=suite.long_s), partial(time_real, seconds=suite.long_s)
    for settings in base:
        row = train_line(suite, settings, "synthetic, eager", peak, synthetic)
        training.rows.append(row)
        speed, why = row.get("clips_per_s"), {"status": row.get("status")}
        for packing in REAL:
            row = train_line(suite, settings, packing.name, peak, real, packing=packing)
            training.rows.append(row)
            share = {key: row[key] for key in ("variant", "status") if key in row}
            if not speed:
                share = why | share
            elif "clips_per_s" in row:
                share["efficiency"] = row["clips_per_s"] / speed
            efficiency.rows.append(share)
    synthetic = partial(time_synthetic, seconds=suite.seconds)
    for settings in others:
        training.rows.append(train_line(suite, settings, "synthetic, eager", peak, synthetic))
    if peak:
        training.note = f"Arithmetic: a large bf16 matrix product reaches {peak / 1e12:.0f} TFLOP/s here."
    return training, efficiency


def compiled_lines(suite: Suite, base: Sequence[Settings]) -> Iterator[Row]:
    """Compiled training; compiling takes a minute or two a line, so they come last."""
    for settings in base:
        for name, mode in (("torch.compile", "default"), ("CUDA graphs", CUDA_GRAPHS)):
            measure = partial(time_synthetic, seconds=suite.seconds, compile_mode=mode)
            title = f"synthetic, {name}"
            yield train_line(suite, settings, title, arithmetic_rate(), measure, needs_gpu=True, needs_s=90.0)


def train_line(
    suite: Suite,
    settings: Sequence[str],
    title: str,
    peak: float | None,
    measure: Callable[[Any], Row],
    *,
    packing: Packing = REAL[0],
    needs_gpu: bool = False,
    needs_s: float = 0.0,
) -> Row:
    named = suite.row(*settings, packing=packing)
    train = named.config.data.train
    where = f"{train.num_segments} segments, batch {train.batch_size}"
    row: Row = {"variant": f"{named.config.model.backbone}, {where}, {title}"}

    def measured() -> Row:
        figures = measure(named)
        if peak:
            figures["arithmetic_share"] = figures["clips_per_s"] * training_flops(named) / peak
        return figures

    return row | suite.attempt(measured, needs_gpu=needs_gpu, needs_s=needs_s)


def model_table(suite: Suite, protocols: Sequence[Settings]) -> Section:
    """The network alone at batch 1."""
    section = Section("Model alone, batch 1", TEST_COLUMNS)
    for settings in protocols:
        named = suite.row(*settings)
        amp = named.config.train.amp and suite.on_gpu
        row = {"variant": test_title(named, amp)} | published(named.config)
        measured = suite.attempt(
            lambda named=named, amp=amp: time_model(named, amp=amp, seconds=suite.seconds), needs_gpu=False
        )
        section.rows.append(row | measured)
    return section


def test_table(suite: Suite, protocols: Sequence[Settings]) -> Section:
    """Testing as scripts/eval.py does it, reading and decoding included."""
    section = Section("Testing, from shards to logits", TEST_COLUMNS)
    for settings in protocols:
        named = suite.row(*settings)
        row = {"variant": test_title(named, named.config.train.amp and suite.on_gpu)}
        measured = suite.attempt(
            lambda named=named: time_test(named, seconds=2.5 * suite.seconds), needs_gpu=False
        )
        section.rows.append(row | measured)
    return section


def test_title(named: Any, amp: bool) -> str:
    precision = "bf16" if amp else "fp32 (convolutions in TF32)" if torch.cuda.is_available() else "fp32"
    return f"{named.config.model.backbone}, {views_of(named.config)}, {precision}"


def memory_table(suite: Suite) -> Section:
    """Peak memory of training with as many images as the published figures have."""
    columns = {
        "variant": "variant",
        "published_gb": "published, GB",
        "peak_memory_gb": "peak memory, GB",
        "images_per_s": "images/s",
    }
    section = Section("Memory of training", columns)
    for num_segments, published_mib in ((3, 8344), (8, 21558)):
        batch = (f"data.train.num_segments={num_segments}", "data.train.batch_size=32")
        for amp, recompute in product(("false", "true"), repeat=2):
            variant = f"{32 * num_segments} images, {'bf16' if amp == 'true' else 'fp32'}"
            variant += ", recomputed" * (recompute == "true")
            settings = (*batch, f"train.amp={amp}", f"train.recompute={recompute}")
            measured = suite.attempt(
                lambda settings=settings: time_synthetic(suite.row(*settings), seconds=suite.seconds / 2)
            )
            section.rows.append({"variant": variant, "published_gb": published_mib * 2**20 / 1e9} | measured)
    return section


def backbone_table(suite: Suite) -> Section:
    """Training speed of the other networks of the zoo."""
    columns = {"variant": "backbone", "images_per_s": "images/s", "peak_memory_gb": "peak memory, GB"}
    section = Section("Backbones, training in bf16, 32 x 3 images, eager", columns)
    for backbone in BACKBONES:
        settings = (f"model.backbone={backbone}", "data.train.num_segments=3", "data.train.batch_size=32")
        measured = suite.attempt(
            lambda settings=settings: time_synthetic(suite.row(*settings), seconds=suite.seconds / 2)
        )
        section.rows.append({"variant": backbone} | measured)
    return section


def times_table(suite: Suite, settings: Sequence[str], folder: Path) -> Section:
    """How long a user waits for what is not training."""
    columns = {"variant": "what", "seconds": "s"}
    section = Section("Waiting", columns)
    named = suite.row(*settings)
    manifest = load_manifest(named.config.data.train.shards)
    overrides = [
        *(f"data.{split}.shards={suite.shards[REAL[0]]}" for split in ("train", "val", "test")),
        *(*settings, f"model.num_classes={manifest.num_classes}", *suite.overrides),
    ]

    def first_step() -> Row:
        seconds = time_to_first_step(suite.cfg, overrides, folder / "first")
        return {"seconds": seconds} if seconds else {"status": "failed: no step in time"}

    def validation() -> Row:
        return {"seconds": 1000 / time_test(named, seconds=suite.seconds, split="val")["videos_per_s"]}

    lines: dict[str, Callable[[], Row]] = {
        "from the command to the first step's record": first_step,
        "validation of 1,000 videos": validation,
        "writing a checkpoint": lambda: {"seconds": time_checkpoint(named, folder / "saved")},
    }
    for name, measure in lines.items():
        section.rows.append({"variant": name} | suite.attempt(measure, needs_gpu=False))
    return section


def profile_table(suite: Suite, settings: Settings, num_steps: int) -> Section:
    """The five costliest operations of training on real batches, and how long the GPU was idle."""
    columns = {"variant": "operation", "share": "share", "ms_per_step": "ms a step"}
    section = Section(f"Profile of {num_steps} steps on real batches", columns)
    named = suite.row(*settings)

    def profiled() -> Row:
        loader: Any = EndlessLoader(launch.build_train_loader(named.config, ONE_PROCESS))
        try:
            return profile_steps(named, loader, num_steps=num_steps)
        finally:
            loader.close()

    found = suite.attempt(profiled, needs_gpu=False)
    if "status" in found:
        section.rows.append({"variant": "all", **found})
        return section
    section.rows = [{"variant": entry.pop("name"), **entry} for entry in found["operations"]]
    idle = found["gpu_idle"]
    section.rows.append(
        {"variant": "GPU idle"} | ({"share": idle} if idle is not None else {"status": NO_GPU})
    )
    return section


def aims_table(training: Section, efficiency: Section, test: Section, profiled: Section) -> Section:
    """What the project wants of an H200, beside what stands in the other tables."""
    section = Section("Aims (on an H200)", {"variant": "aim", "wanted": "wanted", "measured": "measured"})

    of_idle = "all" if profiled.rows and profiled.rows[0]["variant"] == "all" else "GPU idle"
    found = (
        best_of(efficiency.rows, "efficiency", ", 3 segments"),
        best_of(efficiency.rows, "efficiency", ", 8 segments"),
        best_of(training.rows, "images_per_s", "resnet50"),
        best_of(test.rows, "videos_per_s", "25 segments x 10 crops"),
        best_of(profiled.rows, "share", of_idle),
    )
    for (name, wanted), (value, status) in zip(AIMS.items(), found, strict=True):
        if not torch.cuda.is_available():
            value, status = None, NO_GPU
        measured = {"measured": value} if value is not None else {"status": status}
        section.rows.append({"variant": name, "wanted": wanted} | measured)
    return section
