import pytest

from tsn.yaml_reader import dump_yaml, parse_yaml


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


@pytest.mark.parametrize(
    "text",
    [
        *("&a [*a]", "{x: &a {y: *a}}", "&a [*a, *a]"),  # an alias inside what it names
        *("[" * 51 + "]" * 51, "[" * 5000 + "]" * 5000),
    ],
)
def test_what_is_nested_without_end_is_a_fault(text):
    assert parse_yaml(text) == (
        None,
        ["nested more than 50 deep; does an alias (*name) stand inside what it names?"],
    )


def test_an_alias_means_what_its_anchor_names():
    assert parse_yaml("{x: &a [1], y: *a}") == ({"x": [1], "y": [1]}, [])


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1e3",
            "-1e3",
            ".5",
            "5.",
            "12",
            "010",
            "0o7",
            "0x1F",
            "1_000",
            "1:30",
            ".inf",
            ".nan",
            "2024-01-01",
        ),
        *("yes", "no", "on", "off", "true", "True", "null", "~", "<<", "="),
        *("", " ", " a ", "a: b", "#x", "a #b", "- a", "[a", "*a", "&a", "!x", "%", "@a", "'", '"', "---"),
        *("é", "a\nb", "\n", "\t", "\r", "1e3\n", "\u2028", "\ufeff", "\udc80", "😀", "x" * 300),
    ],
)
def test_any_text_survives_being_written_and_read(text):
    for data in (text, [text], {text: {"a": text}}):
        assert parse_yaml(dump_yaml(data)) == (data, [])


@pytest.mark.parametrize("value", [1e3, 1e-5, 1e22, -2.5e300, 5e-324, 3, 10**200, True, False, None])
def test_a_value_keeps_its_type(value):
    parsed, faults = parse_yaml(dump_yaml([value]))
    assert (parsed, faults, type(parsed[0])) == ([value], [], type(value))
