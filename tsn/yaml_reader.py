"""YAML without its traps: numbers are numbers, only `true` and `false` are booleans, and no key is given
twice.

PyYAML follows YAML 1.1, where `1e-4` is text, `off` is false and a repeated key silently wins.  Its parser is
used here, its interpretation of scalars is not: scalars are read by the rules of YAML 1.2's core schema, and
text that they would take for something else is written in quotes.
"""

import re
from typing import Any

import yaml

_INT = re.compile(r"[-+]?[0-9]{1,300}")  # a longer one is read as a float, which is infinite
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_MAX_DEPTH = 50
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "~": None, "": None}


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """The data in `text` (None if it is empty), and its faults: text that is no YAML, keys given twice."""
    faults: list[str] = []
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return (None if node is None else _value(node, "", faults, 1)), faults
    except yaml.YAMLError as error:
        return None, ["not valid YAML: " + " ".join(str(error).split())]
    except RecursionError:
        return None, [
            f"nested more than {_MAX_DEPTH} deep; does an alias (*name) stand inside what it names?"
        ]


def dump_yaml(data: Any) -> str:
    """Dicts, lists and plain values as text that `parse_yaml` reads back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Knows what is text for YAML 1.1, and through `_represent_text` what is text here."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(_plain(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _value(node: yaml.Node, path: str, faults: list[str], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise RecursionError  # as PyYAML does itself where text is nested deeper still
    match node:
        case yaml.MappingNode():
            return _mapping(node, path, faults, depth)
        case yaml.SequenceNode():
            return [_value(item, f"{path}[{i}]", faults, depth + 1) for i, item in enumerate(node.value)]
        case yaml.ScalarNode(style=None):
            return _plain(node.value)
        case _:  # quoted, or a block of text
            return node.value


def _mapping(node: yaml.MappingNode, path: str, faults: list[str], depth: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        dotted = f"{path}.{key}" if path else key
        if key in data:
            faults.append(f"{dotted}: given twice, in lines {lines[key]} and {line}; keep one")
        data[key] = _value(value_node, dotted, faults, depth + 1)
        lines[key] = line
    return data


def _plain(text: str) -> Any:
    """What text without quotes means."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
