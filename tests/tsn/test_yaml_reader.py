import pytest

from tsn.yaml_reader import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("3", 3),
        ("-3", -3),
        ("010", 10),  # not octal
        ("1:30", "1:30"),  # not base 60
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("'3'", "3"),
        ('"true"', "true"),
        ("2020-01-01", "2020-01-01"),
        ("[1, 2.5, [x]]", [1, 2.5, ["x"]]),
        ("{a: {b: 1e-3}}", {"a": {"b": 0.001}}),
    ],
)
def test_values_are_what_they_look_like(text, value):
    parsed, faults = parse_yaml(text)
    assert faults == []
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_repeated_key_is_a_fault_that_names_both_lines():
    _, faults = parse_yaml("model:\n  loss: bce\n  dropout: 0.1\n  loss: bce\n")
    assert faults == ["model.loss: given twice, in lines 2 and 4; keep one"]


def test_text_that_is_no_yaml_is_a_fault():
    _, faults = parse_yaml("a: [1")
    assert len(faults) == 1
    assert faults[0].startswith("not valid YAML: while parsing a flow sequence")
