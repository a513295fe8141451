"""What can be wrong with a config, in words: pydantic's errors, and settings that contradict each other."""

import contextlib
import dataclasses
import difflib
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tsn.config import (
    AuxiliaryConfig,
    Config,
    DataConfig,
    EvalDataConfig,
    ModelConfig,
    ScheduleConfig,
    TrainDataConfig,
)

_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a section (lines of key: value)",
    "dataclass_type": "a section (lines of key: value)",
}

_WEIGHT_NAMES = ("imagenet_v1", "imagenet_v2", "timm", "swsl")
_PUBLIC_WEIGHTS = {
    "resnet18": ("imagenet_v1", "swsl"),
    "resnet50": ("imagenet_v1", "imagenet_v2", "swsl"),
    "resnet101": ("imagenet_v1", "imagenet_v2"),
    "resnext101_32x4d": ("swsl",),
    "densenet161": ("imagenet_v1",),
    "swin_base": ("timm",),
}
"""Which named weights exist for a backbone; what others have is known to their libraries."""


def describe_errors(error: ValidationError) -> list[tuple[str, str]]:
    """Pydantic's findings as (dotted key, what was found and what was expected), each once."""
    # A value that may be of several types is reported for each, a list with wrong items also as too short.
    described = [_describe(detail) for detail in error.errors(include_url=False) if not _is_echo(detail)]
    return list(dict.fromkeys(described))


def _is_echo(error: Mapping[str, Any]) -> bool:
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _describe(error: Mapping[str, Any]) -> tuple[str, str]:
    location = error["loc"]
    key, found, context = dotted(location), error["input"], error.get("ctx", {})
    match error["type"]:
        case "unexpected_keyword_argument":
            return key, "unknown key" + _suggest(location)
        case "missing" if isinstance(location[-1], int):
            return dotted(location[:-1]), f"has {len(found)} values, expected {location[-1] + 1}"
        case "missing":
            return key, "missing; it has no default"
        case "too_long":
            return key, f"has {context['actual_length']} values, expected at most {context['max_length']}"
        case "too_short":
            return key, f"has {context['actual_length']} values, expected at least {context['min_length']}"
        case "greater_than_equal":
            return key, f"is {found}, expected at least {context['ge']}"
        case "less_than_equal":
            return key, f"is {found}, expected at most {context['le']}"
        case "greater_than":
            return key, f"is {found}, expected more than {context['gt']}"
        case "literal_error":
            options = context["expected"].replace("'", "")
            return key, f"is {in_yaml(found)}, expected {options}"
        case "value_error":
            return key, f"is {in_yaml(found)}, expected {context['error']}"
        case "string_pattern_mismatch":
            return key, f"is {in_yaml(found)}, expected text of the form {context['pattern']}"
        case kind if location[0] == "reference" and len(location) > 1:
            return dotted(location[:2]), f"is {in_yaml(found)}, expected a finite number or text"
        case kind:
            return key, f"is {in_yaml(found)}, expected {_KINDS.get(kind, error['msg'])}"


def in_yaml(value: Any) -> str:
    """A value as one would write it in the file."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a section"
        case list():
            return "a list"
        case str():
            return f'"{value}"'
        case _:
            return str(value)


def dotted(location: tuple[str | int, ...]) -> str:
    """('data', 'train', 'scales', 0) as `data.train.scales[0]`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _suggest(location: tuple[str | int, ...]) -> str:
    """`; did you mean ...?` with the likeliest key of the same section, or the same key of another
    section."""
    name = str(location[-1])
    section = tuple(part for part in location[:-1] if isinstance(part, str))
    known = dict(_iter_keys(Config, ()))
    siblings = [keys[-1] for keys in known.values() if keys[:-1] == section]
    close = difflib.get_close_matches(name, siblings, n=1)
    elsewhere = [key for key, keys in known.items() if keys[-1] == name]
    if close:
        return f'; did you mean "{close[0]}"?'
    if elsewhere:
        return f'; did you mean "{elsewhere[0]}"?'
    return f"; known here are: {', '.join(siblings)}" if siblings else ""


def _iter_keys(section: type, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        keys = (*path, field.name)
        yield ".".join(keys), keys
        for kind in (hints[field.name], *typing.get_args(hints[field.name])):  # a section, or a list of them
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield from _iter_keys(kind, keys)


def valid_sections(data: Any, kind: Any = Config, location: tuple[str | int, ...] = ()) -> dict[str, Any]:
    """The sections in plain data that are valid by themselves, by dotted key, whatever is wrong in others."""
    found = {}
    with contextlib.suppress(ValidationError):
        found[dotted(location)] = TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    if isinstance(data, dict):
        for place, inner_kind, inner in _inner_sections(data, kind):
            found |= valid_sections(inner, inner_kind, location + place)
    return found


def _inner_sections(data: Mapping[str, Any], kind: Any) -> Iterator[tuple[tuple[str | int, ...], Any, Any]]:
    """The sections of a section, and those in its lists: where each is, of what kind, and its data."""
    for name, hint in typing.get_type_hints(kind).items():
        item_kind = next(iter(typing.get_args(hint)), None)
        if dataclasses.is_dataclass(hint):
            yield (name,), hint, data.get(name)
        elif dataclasses.is_dataclass(item_kind) and isinstance(data.get(name), list):
            yield from (((name, i), item_kind, item) for i, item in enumerate(data[name]))


def conflicts(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings that are valid alone but not together, as (dotted key, what is wrong).

    Args:
        sections: those that are valid, by dotted key; what concerns others is not checked.
    """
    names: set[str] = set()
    for key, section in sections.items():
        match section:
            case ModelConfig():
                yield from _model_conflicts(section)
            case TrainDataConfig():
                yield from _train_conflicts(key, section)
            case EvalDataConfig():
                yield from _eval_conflicts(key, section)
            case ScheduleConfig():
                yield from _schedule_conflicts(section)
            case AuxiliaryConfig(name=name):
                if name in names:
                    yield f"{key}.name", f'is "{name}", the name of another source; choose another'
                names.add(name)
    model, train, data = sections.get("model"), sections.get("train"), sections.get("data")
    if model and model.modality == "flow":
        yield from _flow_conflicts(sections)
    if model and train and train.mixup and model.loss == "bce":
        yield "train.mixup", "is for cross_entropy, and model.loss is bce; set it to 0"
    if train and train.recompute and train.compile:
        yield "train.recompute", "is true, which torch.compile refuses; set it or train.compile to false"
    if model and data and data.scale_flow and model.modality != "flow":
        yield "data.scale_flow", f"is for flow, and model.modality is {model.modality}; set it to false"


def train_sources(data: DataConfig) -> dict[str, TrainDataConfig]:
    """All that is trained on, by its dotted key; the main source first."""
    auxiliary = {f"data.auxiliary[{i}].train": source.train for i, source in enumerate(data.auxiliary)}
    return {"data.train": data.train} | auxiliary


def _model_conflicts(model: ModelConfig) -> Iterator[tuple[str, str]]:
    known = _PUBLIC_WEIGHTS.get(model.backbone)
    if known is not None and model.pretrained in _WEIGHT_NAMES and model.pretrained not in known:
        use = " or ".join((*known, "none", "a file"))
        yield (
            "model.pretrained",
            f"is {model.pretrained}, which does not exist for {model.backbone}; use {use}",
        )
    if model.flow_init != "fresh" and (model.modality != "flow" or model.pretrained == "none"):
        yield "model.flow_init", f"is {model.flow_init}, for flow networks with pretrained weights only"
    if model.loss == "bce" and model.label_smoothing:
        yield "model.label_smoothing", "is for cross_entropy, and model.loss is bce; set it to 0"


def _flow_conflicts(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    main = sections.get("data.train")
    for key, section in sections.items():
        if (
            main
            and isinstance(section, TrainDataConfig | EvalDataConfig)
            and section.clip_len != main.clip_len
        ):
            expected = f"expected that of data.train ({main.clip_len}): it sets the input channels"
            yield f"{key}.clip_len", f"is {section.clip_len}, {expected}"
        if isinstance(section, TrainDataConfig) and section.color_jitter:
            yield f"{key}.color_jitter", "has no meaning for flow; set it to 0"


def _train_conflicts(section: str, train: TrainDataConfig) -> Iterator[tuple[str, str]]:
    yield from _size_conflicts(section, train, is_fixed=train.crop == "center")
    for i, scale in enumerate(train.scales):
        if scale > 1:
            yield f"{section}.scales[{i}]", f"is {scale}, expected at most 1, the whole short side"
    for name in ("area_range", "aspect_range"):
        low, high = getattr(train, name)
        if low > high:
            yield f"{section}.{name}", f"is [{low}, {high}], expected the smaller number first"
    if train.area_range[1] > 1:
        yield f"{section}.area_range", f"ends at {train.area_range[1]}, expected at most 1, the whole frame"


def _eval_conflicts(section: str, data: EvalDataConfig) -> Iterator[tuple[str, str]]:
    yield from _size_conflicts(section, data, is_fixed=data.num_crops != 3)
    if data.num_crops == 3:
        yield from _three_crop_conflicts(section, data)
    if data.random_crop and data.num_crops != 1:
        yield (
            f"{section}.random_crop",
            f"is true with {data.num_crops} crops; only a single crop can be random",
        )
    if data.twice and data.sampling not in ("segments", "spread"):
        yield f"{section}.twice", f"is for sampling segments or spread, and sampling is {data.sampling}"
    if data.sampling == "spread" and data.clip_len == 1:
        yield f"{section}.sampling", "is spread, which is for clips of several frames; use segments"
    if data.sampling == "spread" and data.twice and data.num_segments == 1:
        yield f"{section}.twice", "has no meaning for a single spread segment; set it to false"


def _size_conflicts(
    section: str, data: TrainDataConfig | EvalDataConfig, *, is_fixed: bool
) -> Iterator[tuple[str, str]]:
    """Of the scaled frame and, where the crop has a fixed size in it, the crop."""
    if data.frame_size is None and data.keep_aspect:
        yield f"{section}.keep_aspect", "is true without frame_size, the box to fit into; short_side keeps it"
    if not is_fixed:
        return
    crop = _in_words(data.crop_size)
    if data.frame_size:
        as_lying = sorted if data.keep_aspect else tuple  # frames lie or stand in the box
        sides = zip(as_lying(data.crop_size), as_lying(data.frame_size), strict=True)
        if any(side > room for side, room in sides):
            yield f"{section}.crop_size", f"is {crop}, larger than frame_size {list(data.frame_size)}"
    elif data.short_side is not None and min(data.crop_size) > data.short_side:
        yield f"{section}.crop_size", f"is {crop}, larger than short_side ({data.short_side})"


def _three_crop_conflicts(section: str, data: EvalDataConfig) -> Iterator[tuple[str, str]]:
    """Three crops lie along one side, so the other must be that of the frame."""
    crop, key = _in_words(data.crop_size), f"{section}.crop_size"
    if data.frame_size is None:
        if data.crop_size != (data.short_side, data.short_side):
            yield (
                key,
                f"is {crop}; 3 crops lie along the long side, so it must equal short_side "
                f"({in_yaml(data.short_side)})",
            )
    elif data.keep_aspect:
        yield key, f"is {crop}; 3 crops need frames of one known side: use short_side instead of keep_aspect"
    elif min(room - side for side, room in zip(data.crop_size, data.frame_size, strict=True)) != 0:
        yield (
            key,
            f"is {crop}; 3 crops lie along one side, so it must be as wide or as high as frame_size "
            f"{list(data.frame_size)}, and no larger",
        )


def _in_words(crop_size: tuple[int, int]) -> str:
    """As one would write it in the file."""
    return str(crop_size[0] if crop_size[0] == crop_size[1] else list(crop_size))


def _schedule_conflicts(schedule: ScheduleConfig) -> Iterator[tuple[str, str]]:
    milestones = schedule.milestones
    if list(milestones) != sorted(set(milestones)):
        yield "schedule.milestones", f"is {list(milestones)}, expected increasing epochs"
    if milestones and schedule.kind == "cosine":
        yield "schedule.milestones", "has no meaning for kind cosine; leave it empty: []"
    if schedule.warmup_epochs > schedule.epochs:
        yield (
            "schedule.warmup_epochs",
            f"is {schedule.warmup_epochs}, longer than the whole run ({schedule.epochs} epochs)",
        )
