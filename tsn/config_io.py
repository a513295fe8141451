"""From YAML and `section.key=value` to a `Config`, reporting every fault at once."""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tsn.config import Config
from tsn.config_faults import conflicts, describe_errors, valid_sections
from tsn.config_files import find_config, follow_alias
from tsn.errors import UserError
from tsn.yaml_reader import dump_yaml, parse_yaml

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
"""Of `data.auxiliary[0].train`: a name, or the number of an entry."""


@dataclass(frozen=True)
class NamedConfig:
    """A config and the name under which its runs are kept."""

    name: str
    """The file name without `.yaml`."""
    config: Config


def load_config(name: str, overrides: Sequence[str] = ()) -> NamedConfig:
    """Read a config file and apply overrides.

    Args:
        name: an existing path, or the name of a packaged config with or without `.yaml`; a path wins.
        overrides: `section.key=value` or `section.list[0].key=value`, later ones win; a value is read like
            one in the file.

    Raises:
        UserError: there is no such config, or it has faults; all of them are listed.
    """
    named = find_config(name)
    file = follow_alias(named)
    if "combines" in file.data:
        raise UserError(
            f"{file.name}: is the result of several networks; train and test each with its own config "
            f"({', '.join(file.data['combines'])}), then join their results, as scripts/zoo.py show says"
        )
    faults = [f"{file.name}: {fault}" for fault in file.faults]
    return NamedConfig(Path(named.name).stem, _build(file.data, overrides, source=file.name, faults=faults))


def config_from_dict(data: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str) -> Config:
    """A config from nested plain data, as `config_to_dict` gives it and checkpoints hold it.

    Raises:
        UserError: the data or the overrides have faults; all of them are listed.
    """
    return _build(json.loads(json.dumps(data)), overrides, source=source, faults=[])


def config_to_dict(config: Config) -> dict[str, Any]:
    """The whole config, defaults included, as dicts, lists and plain values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_to_yaml(config: Config) -> str:
    """The whole config, defaults included, as a file that `load_config` reads back."""
    return dump_yaml(config_to_dict(config))


def _build(data: dict[str, Any], overrides: Sequence[str], *, source: str, faults: list[str]) -> Config:
    """Validate `data` with the overrides in it; `faults` holds what is known to be wrong already."""
    overridden: set[str] = set()
    for override in overrides:
        faults += [f"command line: {fault}" for fault in _override(data, override, overridden)]
    try:
        config, found = TypeAdapter(Config).validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        config, found = None, describe_errors(error)
    for key, text in [*found, *conflicts(valid_sections(data))]:
        origin = "command line" if _is_inside(key, overridden) else source
        faults.append(f"{origin}: {key}: {text}")
    if faults or config is None:
        raise UserError("\n".join(faults))
    return config


def _is_inside(key: str, overridden: set[str]) -> bool:
    """True if an override set `key`, a part of it or what it is a part of."""
    return any(
        key == other or key.startswith((f"{other}.", f"{other}[")) or other.startswith((f"{key}.", f"{key}["))
        for other in overridden
    )


def _override(data: dict[str, Any], override: str, overridden: set[str]) -> list[str]:
    """Set one `section.key=value` or `section.list[0].key=value` in `data`; returns what is wrong with it."""
    key, equals, text = override.partition("=")
    steps = [int(entry) if entry else name for name, entry in _STEP.findall(key)]
    spelt = "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in steps)
    if not equals or not key or spelt != f".{key}":
        return [f"{override!r}: expected section.key=value"]
    value, faults = parse_yaml(text)
    if faults:
        return [f"{key}: {fault}" for fault in faults]
    place: Any = data
    for step, following in itertools.pairwise(steps):
        if isinstance(step, str) and isinstance(following, str):
            place.setdefault(step, {})
        inner = place[step] if isinstance(step, int) else place.get(step)
        if isinstance(following, int) and not (isinstance(inner, list) and following < len(inner)):
            return [f"{key}: {step} has no entry [{following}]"]
        if isinstance(following, str) and not isinstance(inner, dict):
            return [f"{key}: {step} is a value, not a section"]
        place = inner
    place[steps[-1]] = value
    overridden.add(key)
    return []
