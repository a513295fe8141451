"""YAML without its traps: numbers are numbers, only `true` and `false` are booleans, and no key is given
twice.

PyYAML follows YAML 1.1, where `1e-4` is text, `off` is false and a repeated key silently wins.  Its parser is
used here, its interpretation of scalars is not: scalars are read by the rules of YAML 1.2's core schema.
"""

import re
from typing import Any

import yaml

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "~": None, "": None}


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """The data in `text` (None if it is empty), and its faults: text that is no YAML, keys given twice."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return None, ["not valid YAML: " + " ".join(str(error).split())]
    faults: list[str] = []
    return (None if node is None else _value(node, "", faults)), faults


def _value(node: yaml.Node, path: str, faults: list[str]) -> Any:
    match node:
        case yaml.MappingNode():
            return _mapping(node, path, faults)
        case yaml.SequenceNode():
            return [_value(item, f"{path}[{i}]", faults) for i, item in enumerate(node.value)]
        case _:
            return _scalar(node)


def _mapping(node: yaml.MappingNode, path: str, faults: list[str]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        dotted = f"{path}.{key}" if path else key
        if key in data:
            faults.append(f"{dotted}: given twice, in lines {lines[key]} and {line}; keep one")
        data[key] = _value(value_node, dotted, faults)
        lines[key] = line
    return data


def _scalar(node: yaml.Node) -> Any:
    text = node.value
    if node.style is not None:  # quoted, or a block of text  # pyright: ignore[reportAttributeAccessIssue]
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
