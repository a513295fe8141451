"""Where configs are: a file of the user's, or one that comes with the package.

A packaged file is one of three kinds: a config; a short name, `alias: NAME` of a config; or a published
result of several networks, `combines: [NAME, NAME]`.
"""

import difflib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tsn.config_faults import in_yaml
from tsn.errors import UserError
from tsn.yaml_reader import parse_yaml


@dataclass(frozen=True)
class ConfigFile:
    """What is in a file, not validated yet."""

    name: str
    """Of the file, with `.yaml`."""
    data: dict[str, Any]
    faults: list[str]
    """The keys that it gives twice."""


@dataclass(frozen=True)
class Combination:
    """A published result of several networks, each of which has a config of its own."""

    members: tuple[str, ...]
    """The names of their configs."""
    by: Literal["sum_of_scores", "mean_of_metrics"]
    """sum_of_scores: weighted sum of the raw logits of each video.  mean_of_metrics: of their results."""
    weights: tuple[float, ...]
    """One a member."""
    reference: dict[str, float | int | str]
    """The published figures."""


def find_config(name: str) -> ConfigFile:
    """The file that `name` means: an existing path, or else a packaged one with or without `.yaml`.

    Raises:
        UserError: there is no such file, or no section in it.
    """
    path = Path(name)
    return _parse(path.name, path.read_text(encoding="utf-8")) if path.is_file() else _find_packaged(name)


def follow_alias(file: ConfigFile) -> ConfigFile:
    """The packaged file that a short name stands for; any other file is returned as it is.

    Raises:
        UserError: there is no such file.
    """
    return _find_packaged(str(file.data["alias"])) if set(file.data) == {"alias"} else file


def load_combination(name: str) -> Combination | None:
    """What the packaged row `name` combines; None if it is a config of one network.

    Raises:
        UserError: there is no such packaged file.
    """
    data = _find_packaged(name).data
    if "combines" not in data:
        return None
    members = tuple(data["combines"])
    weights = tuple(float(weight) for weight in data.get("weights", [1] * len(members)))
    return Combination(members, data["by"], weights, data["reference"])


def packaged_names() -> list[str]:
    """The names of all packaged files, of whatever kind."""
    folder = resources.files("tsn") / "configs"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def packaged_configs() -> list[str]:
    """The names of the packaged files that are configs of one network."""
    files = (_find_packaged(name) for name in packaged_names())
    return [file.name.removesuffix(".yaml") for file in files if "model" in file.data]


def packaged_aliases() -> dict[str, str]:
    """For each short name the config that it stands for."""
    files = (_find_packaged(name) for name in packaged_names())
    return {file.name.removesuffix(".yaml"): file.data["alias"] for file in files if "alias" in file.data}


def _find_packaged(name: str) -> ConfigFile:
    stem, known = name.removesuffix(".yaml"), packaged_names()
    if stem not in known:
        close = " or ".join(difflib.get_close_matches(stem, known, n=3))
        raise UserError(
            f"--cfg {name}: {'is a directory' if Path(name).is_dir() else 'no such file'}, and no packaged "
            f"config of this name{f'; did you mean {close}?' if close else '.'}  "
            f"Packaged are: {', '.join(name for name in known if not name.startswith('tsn_'))}, and every "
            "row of scripts/zoo.py list"
        )
    entry = resources.files("tsn") / "configs" / f"{stem}.yaml"
    return _parse(entry.name, entry.read_text(encoding="utf-8"))


def _parse(name: str, text: str) -> ConfigFile:
    data, faults = parse_yaml(text)
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"is {in_yaml(data)}"
        expected = "expected sections such as model, data and schedule"
        raise UserError(f"{name}: {faults[0] if data is None and faults else f'{found}; {expected}'}")
    return ConfigFile(name, data, faults)
