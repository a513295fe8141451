"""The published rows, and what was measured of them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsn.config import Config
from tsn.config_files import Combination, load_combination, packaged_aliases, packaged_names
from tsn.config_io import config_to_dict, load_config
from tsn.errors import UserError

_DATASETS = (
    *("ucf101", "hmdb51", "diving48", "kinetics400", "kinetics600", "kinetics700"),
    *("sthv1", "sthv2", "mmit", "mit", "activitynet", "hvu"),
)
_PUBLISHED_METRICS = ("top1", "top5", "mAP")


@dataclass(frozen=True)
class Row:
    """One published result: of one network, or of several together."""

    name: str
    recipe: Config | Combination

    @property
    def dataset(self) -> str:
        """One word, such as kinetics400."""
        return next(dataset for dataset in _DATASETS if re.search(rf"(^|_){dataset}(_|$)", self.name))

    @property
    def published(self) -> dict[str, float]:
        """Percentages, by `top1`, `top5` and `mAP`."""
        reference = self.recipe.reference
        return {name: float(reference[name]) for name in _PUBLISHED_METRICS if name in reference}


@dataclass(frozen=True)
class Result:
    """What a `result.json` says."""

    path: Path
    config_name: str
    metrics: dict[str, float | None]
    config: dict[str, Any] | None
    """The whole config as plain data; None where the file keeps none."""


@dataclass(frozen=True)
class Comparison:
    """A row beside one result of it, or alone."""

    row: Row
    measured: dict[str, float]
    """Percentages, by the names of `row.published`."""
    remark: str = ""
    """Where the result lies, and in what its protocol differs from the row's."""


def load_rows(names: Sequence[str] = (), *, dataset: str | None = None) -> list[Row]:
    """The rows of these names (default: all), of one data set if `dataset` names it.

    A name may be a short one such as k400, which stands for a row.

    Raises:
        UserError: there is no such row or data set.
    """
    aliases = packaged_aliases()
    wanted = [aliases.get(name.removesuffix(".yaml"), name.removesuffix(".yaml")) for name in names]
    rows = [_load_row(name) for name in wanted or packaged_names() if name not in aliases]
    if wanted and (strangers := [row.name for row in rows if "row" not in row.recipe.reference]):
        raise UserError(f"{', '.join(strangers)}: no published row; zoo.py list shows them all")
    rows = [row for row in rows if "row" in row.recipe.reference]
    if not wanted:
        rows.sort(key=lambda row: (_DATASETS.index(row.dataset), row.name))
    if dataset is None:
        return rows
    full = re.sub(r"^k(?=\d00$)", "kinetics", dataset)
    if full not in _DATASETS:
        raise UserError(f"--dataset {dataset}: unknown; known are {', '.join(_DATASETS)}")
    return [row for row in rows if row.dataset == full]


def find_results(folder: Path) -> list[Result]:
    """Every file under `folder` that eval.py --out or fuse.py --result wrote with a config's name in it.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"--results {folder}: no such directory; name one with files of eval.py --out")
    found = (_parse_result(path) for path in sorted(folder.rglob("*.json")))
    return [result for result in found if result]


def compare(rows: Sequence[Row], results: Sequence[Result]) -> list[Comparison]:
    """The rows in their order, each beside every result of it; those without one stand alone."""
    aliases = packaged_aliases()
    by_row: dict[str, list[Result]] = {}
    for result in results:
        by_row.setdefault(aliases.get(result.config_name, result.config_name), []).append(result)
    comparisons = []
    for row in rows:
        measured = [_compare(row, result) for result in by_row.get(row.name, [])]
        if isinstance(row.recipe, Combination) and row.recipe.by == "mean_of_metrics" and not measured:
            measured = _mean_of_members(row, row.recipe, by_row)
        comparisons += measured or [Comparison(row, {})]
    return comparisons


def format_table(comparisons: Sequence[Comparison]) -> list[str]:
    """Lines of text: for each metric the published figure, the measured one and the difference, in points."""
    width = max((len(comparison.row.name) for comparison in comparisons), default=3)
    heads = [f"{name:>9} {'measured':>9} {'diff':>6}" for name in ("top1/mAP", "top5")]
    lines = [f"{'row':<{width}} {' '.join(heads)}".rstrip()]
    for comparison in comparisons:
        published, measured = comparison.row.published, comparison.measured
        first = "mAP" if "mAP" in published else "top1"
        cells = [_cells(published.get(name), measured.get(name)) for name in (first, "top5")]
        lines.append(f"{comparison.row.name:<{width}} {' '.join(cells)}  {comparison.remark}".rstrip())
    return lines


def _load_row(name: str) -> Row:
    return Row(name, load_combination(name) or load_config(name).config)


def _parse_result(path: Path) -> Result | None:
    """What a file holds, or None if it is not a result."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        return None
    if not isinstance(content.get("config_name"), str):
        return None
    return Result(path, content["config_name"], content["metrics"], content.get("config"))


def _compare(row: Row, result: Result) -> Comparison:
    remark = str(result.path)
    if isinstance(row.recipe, Config) and result.config:
        other = _other_protocol(row.recipe, result.config)
        remark += f"  other protocol: {', '.join(other)}" if other else ""
    return Comparison(row, _measured(row, result), remark)


def _measured(row: Row, result: Result) -> dict[str, float]:
    """The result's metrics by the names of the row's."""
    names = {name: name for name in row.published}
    if "mAP" in names:
        best = row.recipe.train.best_metric if isinstance(row.recipe, Config) else None
        names["mAP"] = best or "mean_average_precision"
    values = {ours: result.metrics.get(theirs) for ours, theirs in names.items()}
    return {name: 100 * value for name, value in values.items() if value is not None}


def _other_protocol(config: Config, tested: dict[str, Any]) -> list[str]:
    """In what a tested config differs from the row in a way that matters for the figures."""
    own = {"test": config_to_dict(config)["data"]["test"], "backbone": config.model.backbone}
    theirs = {
        "test": tested.get("data", {}).get("test", {}),
        "backbone": tested.get("model", {}).get("backbone", config.model.backbone),
    }
    differing = [] if own["backbone"] == theirs["backbone"] else [f"backbone {theirs['backbone']}"]
    for key, value in own["test"].items():
        if key not in ("shards", "batch_size") and theirs["test"].get(key, value) != value:
            differing.append(f"{key} {theirs['test'][key]} instead of {value}")
    return differing


def _mean_of_members(row: Row, recipe: Combination, by_row: dict[str, list[Result]]) -> list[Comparison]:
    """The mean over the members' latest results, if each has one."""
    latest = []
    for name in recipe.members:
        results = by_row.get(name)
        if not results:
            return []
        latest.append(
            _measured(_load_row(name), max(results, key=lambda result: result.path.stat().st_mtime))
        )
    weights = recipe.weights
    measured = {
        metric: sum(w * of_member[metric] for w, of_member in zip(weights, latest, strict=True))
        / sum(weights)
        for metric in row.published
        if all(metric in of_member for of_member in latest)
    }
    return [Comparison(row, measured, f"mean of {len(latest)} rows")] if measured else []


def _cells(published: float | None, measured: float | None) -> str:
    """The published figure, the measured one, and how much higher it is."""
    texts = [f"{value:.2f}" if value is not None else "-" for value in (published, measured)]
    difference = "-" if published is None or measured is None else f"{measured - published:+.2f}"
    return f"{texts[0]:>9} {texts[1]:>9} {difference:>6}"
