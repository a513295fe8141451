import dataclasses

import pytest

from tsn.config_files import packaged_configs
from tsn.config_io import config_from_dict, config_to_dict, config_to_yaml, load_config
from tsn.errors import UserError

MINIMAL = """
model: {num_classes: 3}
data:
  train: {shards: a}
  val: {shards: b}
  test: {shards: b}
schedule: {epochs: 2}
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(MINIMAL)
    return path


def faults_of(path, *overrides) -> list[str]:
    with pytest.raises(UserError, match=r".") as caught:
        load_config(str(path), overrides)
    return str(caught.value).splitlines()


def test_all_faults_are_reported_at_once_with_file_and_key(tmp_path):
    path = tmp_path / "k400.yaml"
    path.write_text(
        """
model: {num_classes: many, backbone: resnet5, dropout: 1.5, pretrained: 3}
data:
  train: {num_segment: 3, scales: [], area_range: [0.5], short_side: wide, flip: off}
  val: 7
  tst: {shards: b}
optim: {lr: 1e-2, epochs: 3, grad_clip: -1, weight_decay: ~}
schedule: {epochs: 0, milestones: [1, x]}
train: {amp: yes}
reference: {top1: [70]}
model: {num_classes: many}
"""
    )
    assert sorted(faults_of(path)) == sorted(
        f"k400.yaml: {fault}"
        for fault in [
            "model: given twice, in lines 2 and 11; keep one",
            'model.num_classes: is "many", expected a whole number',
            "data.train.shards: missing; it has no default",
            'data.train.num_segment: unknown key; did you mean "num_segments"?',
            "data.train.scales: has 0 values, expected at least 1",
            "data.train.area_range: has 1 values, expected 2",
            'data.train.short_side: is "wide", expected a whole number',
            'data.train.flip: is "off", expected a number',
            "data.val: is 7, expected a section (lines of key: value)",
            "data.test: missing; it has no default",
            'data.tst: unknown key; did you mean "test"?',
            'optim.epochs: unknown key; did you mean "schedule.epochs"?',
            "optim.grad_clip: is -1, expected at least 0.0",
            "optim.weight_decay: is null, expected a number",
            "schedule.epochs: is 0, expected at least 1",
            'schedule.milestones[1]: is "x", expected a whole number',
            'train.amp: is "yes", expected true or false',
            "reference.top1: is a list, expected a finite number or text",
        ]
    )


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        (
            "model.backbone=resnet5",
            'model.backbone: is "resnet5", expected resnet18, resnet50, resnet101, resnext101_32x4d, '
            "densenet161, swin_base, timm/NAME or torchvision/NAME",
        ),
        ("model.dropout=1.5", "model.dropout: is 1.5, expected at most 1.0"),
        (
            'data.auxiliary=[{"name":"a","train":{"shards":"a","num_segment":1}}]',
            'data.auxiliary[0].train.num_segment: unknown key; did you mean "num_segments"?',
        ),
        (
            'data.auxiliary=[{"name":"A-b","train":{"shards":"a"}}]',
            'data.auxiliary[0].name: is "A-b", expected text of the form ^[a-z0-9_]+$',
        ),
        ("optim.grad_clip=1e999", "optim.grad_clip: is inf, expected a finite number"),
        (f"train.seed=1{'0' * 5000}", "train.seed: is inf, expected a whole number"),
        ("reference.top1=-1e999", "reference.top1: is -inf, expected a finite number or text"),
        ("optim.lr=0", "optim.lr: is 0, expected more than 0.0"),
        ("data.train.area_range=[0.1,0.2,0.3]", "data.train.area_range: has 3 values, expected at most 2"),
        (
            "model.size=3",
            "model.size: unknown key; known here are: num_classes, modality, backbone, pretrained",
        ),
        ("nonsense", "'nonsense': expected section.key=value"),
        ("model.num_classes.x=3", "model.num_classes.x: num_classes is a value, not a section"),
        ("model..dropout=0", "'model..dropout=0': expected section.key=value"),
        ("[0].dropout=0", "'[0].dropout=0': expected section.key=value"),
        ("data.auxiliary[0].train.shards=x", "data.auxiliary[0].train.shards: auxiliary has no entry [0]"),
        ("data[0]=x", "data[0]: data has no entry [0]"),
        ("model.dropout=[", "model.dropout: not valid YAML"),
        ("data.test.num_crops=3", "data.test.crop_size: is 224; 3 crops lie along the long side"),
        ("data.val.crop_size=300", "data.val.crop_size: is 300, larger than short_side (256)"),
        (
            "data.val.crop_size=0",
            "data.val.crop_size: is 0, expected a whole number of at least 1, or [width",
        ),
        ("data.val.crop_size=[9,2.5]", "data.val.crop_size[1]: is 2.5, expected a whole number"),
        ("data.val.crop_size=[300,260]", "data.val.crop_size: is [300, 260], larger than short_side (256)"),
        (
            "data.train.crop=center data.train.frame_size=[300,200]",
            "data.train.crop_size: is 224, larger than frame_size [300, 200]",
        ),
        (
            "data.val.keep_aspect=true",
            "data.val.keep_aspect: is true without frame_size, the box to fit into",
        ),
        (
            "data.val.keep_aspect=true data.val.frame_size=[20,20] data.val.crop_size=32",
            "data.val.crop_size: is 32, larger than frame_size [20, 20]",
        ),
        (
            "data.val.keep_aspect=true data.val.frame_size=[40,30] data.val.crop_size=[31,40]",
            "data.val.crop_size: is [31, 40], larger than frame_size [40, 30]",
        ),
        (
            "data.val.num_crops=3 data.val.frame_size=[340,256] data.val.keep_aspect=true",
            "data.val.crop_size: is 224; 3 crops need frames of one known side",
        ),
        (
            "data.val.num_crops=3 data.val.frame_size=[340,256]",
            "data.val.crop_size: is 224; 3 crops lie along one side, so it must be as wide or as high as",
        ),
        (
            "data.val.num_crops=3 data.val.frame_size=[340,256] data.val.crop_size=[340,300]",
            "as wide or as high as frame_size [340, 256], and no larger",
        ),
        (
            "data.val.twice=true data.val.sampling=dense",
            "data.val.twice: is for sampling segments or spread, and sampling is dense",
        ),
        ("data.val.frame_size=256", "data.val.frame_size: is 256, expected [width, height]"),
        ("data.val.sampling=spread", "data.val.sampling: is spread, which is for clips of several frames"),
        (
            "data.val.sampling=spread data.val.clip_len=5 data.val.twice=true data.val.num_segments=1",
            "data.val.twice: has no meaning for a single spread segment",
        ),
        ("train.recompute=true train.compile=true", "train.recompute: is true, which torch.compile refuses"),
        ("data.scale_flow=true", "data.scale_flow: is for flow, and model.modality is rgb; set it to false"),
        ("data.train.scales=[1.5]", "data.train.scales[0]: is 1.5, expected at most 1, the whole short side"),
        (
            "data.train.area_range=[0.5,0.1]",
            "data.train.area_range: is [0.5, 0.1], expected the smaller number first",
        ),
        ("data.train.area_range=[0.5,2]", "data.train.area_range: ends at 2.0, expected at most 1"),
        (
            "data.val.clip_len=5 model.modality=flow",
            "data.val.clip_len: is 5, expected that of data.train (1)",
        ),
        (
            'data.auxiliary=[{"name":"a","train":{"shards":"a"}},{"name":"a","train":{"shards":"b"}}]',
            'data.auxiliary[1].name: is "a", the name of another source',
        ),
        (
            'data.auxiliary=[{"name":"a","train":{"shards":"a","area_range":[0.5,0.1]}}]',
            "data.auxiliary[0].train.area_range: is [0.5, 0.1], expected the smaller number first",
        ),
        (
            "model.backbone=densenet161 model.pretrained=swsl",
            "is swsl, which does not exist for densenet161; use imagenet_v1 or none or a file",
        ),
        ("model.flow_init=cross_modality", "model.flow_init: is cross_modality, for flow networks with"),
        ("model.loss=bce model.label_smoothing=0.1", "model.label_smoothing: is for cross_entropy"),
        ("model.loss=bce train.mixup=0.2", "train.mixup: is for cross_entropy"),
        (
            "model.modality=flow data.train.color_jitter=0.1",
            "data.train.color_jitter: has no meaning for flow",
        ),
        ("data.test.random_crop=true data.test.num_crops=10", "data.test.random_crop: is true with 10 crops"),
        ("schedule.milestones=[3,2]", "schedule.milestones: is [3, 2], expected increasing epochs"),
        ("schedule.warmup_epochs=5", "schedule.warmup_epochs: is 5.0, longer than the whole run (2 epochs)"),
    ],
)
def test_each_fault_has_words_of_its_own(config_file, override, fault):
    faults = faults_of(config_file, *override.split())
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_crop_as_large_as_the_box_fits_into_it_lying_and_standing(config_file):
    box = ("data.val.keep_aspect=true", "data.val.frame_size=[40,30]")
    for crop_size in ([40, 30], [30, 40]):
        load_config(str(config_file), [*box, f"data.val.crop_size={crop_size}"])


def test_settings_that_contradict_each_other_are_faults(config_file):
    faults = faults_of(
        config_file,
        "schedule.kind=cosine",
        "schedule.milestones=[1]",
        "data.train.crop=center",
        "data.train.crop_size=300",
        "model.backbone=resnet18",
        "model.pretrained=imagenet_v2",
    )
    assert len(faults) == 3
    assert "imagenet_v2, which does not exist for resnet18" in faults[0]
    assert "data.train.crop_size: is 300, larger than short_side (256)" in faults[1]
    assert "has no meaning for kind cosine" in faults[2]


def test_contradictions_are_reported_beside_faults_in_other_sections(config_file):
    faults = faults_of(
        config_file,
        "train.val_every_epochs=0",
        "model.dropout=2",
        "data.val=7",
        "data.test.num_crops=3",
        'data.auxiliary=[{"name":"A","train":{"shards":"a","scales":[2]}}]',
        "schedule.warmup_epochs=99",
    )
    assert [fault.split(": ")[1] for fault in faults] == [
        "model.dropout",
        "data.val",
        "data.auxiliary[0].name",
        "train.val_every_epochs",
        "data.test.crop_size",
        "data.auxiliary[0].train.scales[0]",
        "schedule.warmup_epochs",
    ]


def test_clips_are_compared_with_those_of_a_valid_training_section_only(config_file):
    flow = ("model.modality=flow", "data.val.clip_len=5", "data.train.flip=2")
    assert faults_of(config_file, *flow) == ["command line: data.train.flip: is 2, expected at most 1.0"]


def test_a_fault_says_whether_file_or_command_line_has_it(config_file):
    config_file.write_text(MINIMAL + "optim: {lr: x, momentum: y}\n")
    assert faults_of(config_file, "optim.lr=z") == [
        'command line: optim.lr: is "z", expected a number',
        'own.yaml: optim.momentum: is "y", expected a number',
    ]


def test_overrides_replace_values_and_the_last_one_wins(config_file):
    overrides = ["optim.lr=1e-3", "data.train.scales=[1, 0.5]", "train.amp=true", "train.amp=false"]
    config = load_config(str(config_file), overrides).config
    assert (config.optim.lr, config.data.train.scales, config.train.amp) == (1e-3, (1.0, 0.5), False)


def test_overrides_reach_into_lists():
    row = "tsn_r50_omnisource_imagenet_1x1x3_kinetics400_rgb"
    overrides = ["data.auxiliary[1].train.batch_size=4", "data.auxiliary[0].train.scales=[1, 0.5]"]
    overrides += ["data.auxiliary[0].train.scales[1]=0.25"]
    sources = load_config(row, overrides).config.data.auxiliary
    published = load_config(row).config.data.auxiliary
    assert sources[1].train == dataclasses.replace(published[1].train, batch_size=4)
    assert sources[0].train == dataclasses.replace(published[0].train, scales=(1.0, 0.25))
    assert sources[2] == published[2]
    with pytest.raises(UserError, match=r"\[3\].train.flip: auxiliary has no entry \[3\]$"):
        load_config(row, ["data.auxiliary[3].train.flip=0"])
    with pytest.raises(UserError, match=r"^command line: data.auxiliary\[2\].train.flip: "):
        load_config(row, ["data.auxiliary[2].train.flip=2"])


def test_a_run_is_named_after_its_file(config_file):
    assert load_config(str(config_file)).name == "own"


def test_an_existing_path_wins_over_a_packaged_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("k400.yaml").config.model.num_classes == 400
    assert load_config("k400").config.model.num_classes == 400
    (tmp_path / "k400.yaml").write_text(MINIMAL)
    assert load_config("k400.yaml").config.model.num_classes == 3


def test_an_unknown_name_is_refused_with_the_packaged_ones():
    with pytest.raises(
        UserError, match=r"--cfg k40: no such file, .*did you mean k400.*Packaged are: .*k400.*ucf101"
    ):
        load_config("k40")
    with pytest.raises(UserError, match=r"--cfg nope.yaml: .* of this name\.  Packaged are: "):
        load_config("nope.yaml")


def test_a_directory_is_no_config(tmp_path):
    with pytest.raises(UserError, match=rf"--cfg {tmp_path}: is a directory, and no packaged config"):
        load_config(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# nothing\n", "is empty; expected sections such as model, data and schedule"),
        ("- model\n- data\n", "is a list; expected sections such as model, data and schedule"),
        ("model", 'is "model"; expected sections such as model, data and schedule'),
        ("model: [", "not valid YAML: while parsing"),
        ("a: &a [*a]\n", "nested more than 50 deep; does an alias (*name) stand inside what it names?"),
        ("- {model: 1, model: 2}\n", "is a list; expected sections"),
    ],
)
def test_a_file_without_sections_is_refused_with_one_message(tmp_path, text, fault):
    (tmp_path / "odd.yaml").write_text(text)
    (found,) = faults_of(tmp_path / "odd.yaml")
    assert found.startswith(f"odd.yaml: {fault}")


@pytest.mark.parametrize("name", packaged_configs())
def test_a_config_survives_being_written_and_read(name, tmp_path):
    config = load_config(name, ["optim.lr=1e-5", "data.train.shards='off'"]).config
    (tmp_path / "copy.yaml").write_text(config_to_yaml(config))
    assert load_config(str(tmp_path / "copy.yaml")).config == config
    assert config_from_dict(config_to_dict(config), source="checkpoint") == config


def test_text_that_looks_like_something_else_survives_being_written_and_read(config_file, tmp_path):
    data = config_to_dict(load_config(str(config_file)).config)
    for text in ("1e3", "off", "null", "", "a: b", "é"):
        data["data"]["train"]["shards"] = data["model"]["pretrained"] = data["reference"][text] = text
        config = config_from_dict(data, source="test")
        (tmp_path / "copy.yaml").write_text(config_to_yaml(config), encoding="utf-8")
        assert load_config(str(tmp_path / "copy.yaml")).config == config


def test_a_checkpoint_with_numbers_that_are_not_finite_is_refused(config_file):
    data = config_to_dict(load_config(str(config_file)).config)
    data["model"]["dropout"] = data["data"]["train"]["scales"][1] = float("nan")
    with pytest.raises(UserError, match=r"dropout: is nan, expected a finite.*\n.*scales\[1\]: is nan"):
        config_from_dict(data, source="last.pt")
