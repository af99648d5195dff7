"""LoadSpec: parsed once at the door, hashable, and every wrong value is refused with what is right."""

import pytest

import diag
from diag.errors import SpecError
from diag.values.spec import PRESETS, QUANTIZATIONS, LoadSpec, grid


def test_every_preset_and_quantization_is_a_spec():
    specs = grid("tiny", PRESETS, QUANTIZATIONS)
    assert len(set(specs)) == len(PRESETS) * len(QUANTIZATIONS)


def test_a_dict_its_json_and_its_pairs_are_the_same_spec():
    mapping = {"lm_head": "cpu", "": 0}
    by_dict, by_json = LoadSpec("m", device_map=mapping), LoadSpec("m", device_map='{"": 0, "lm_head": "cpu"}')
    assert by_dict == by_json == LoadSpec("m", device_map=by_dict.device_map)
    assert hash(by_dict) == hash(by_json)
    assert by_dict.device_map_text == '{"":0,"lm_head":"cpu"}'


def test_max_memory_reads_sizes_and_digit_keys_from_json():
    spec = LoadSpec("m", max_memory={"0": "1GiB", "cpu": "2GB", 1: 5})
    assert spec.max_memory == ((0, 2**30), (1, 5), ("cpu", 2 * 10**9))


def test_a_quantization_config_is_kept_as_class_name_and_sorted_json():
    transformers = pytest.importorskip("transformers")
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    spec = LoadSpec("m", quantization=config)
    assert spec.quantization.startswith('BitsAndBytesConfig {"')
    assert LoadSpec("m", quantization=spec.quantization) == spec
    assert hash(spec) == hash(LoadSpec("m", quantization=config))


@pytest.mark.parametrize(
    "spec",
    [
        LoadSpec("tiny"),
        LoadSpec("tiny", device_map={"": 0}, hardware="2x24GiB+64GiB", max_memory={0: "1GiB", "cpu": 7}),
        LoadSpec("a/b", "disk", "nf4", dtype="bfloat16", offload_folder="x", adapter="y", loader="m:f", probe="hello"),
    ],
)
def test_json_gives_the_same_spec_back(spec):
    assert LoadSpec.from_json(spec.to_json()) == spec


WRONG = {
    "model": {"": "non-empty", 3: "non-empty"},
    "device_map": {"atuo": "did you mean 'auto'", "{not json": "not valid JSON"},
    "quantization": {"nf5": "did you mean 'nf4'", 4: "int"},
    "dtype": {"float8": "float32"},
    "hardware": {"24": "[N x]SIZE", "0x24GiB": "at least one GPU", 3: "Hardware"},
    "max_memory": {"20GiB": "maps devices to sizes"},
    "loader": {"my_loader": "package.module:function"},
    "probe": {" ": "probe"},
    "offload_folder": {"": "folder"},
}
NO_DEVICE = ({"a": "GPU"}, {"": "banana"}, {"": "cuda:first"})
ONE_GPU = {"hardware": "1x1GiB"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        *[({field: value}, says) for field, values in WRONG.items() for value, says in values.items()],
        *[({"device_map": value}, "not a device") for value in NO_DEVICE],
        ({"device_map": {}}, "places nothing"),
        ({"device_map": {1: 0}}, "keys are module names"),
        ({"device_map": {"a": -1}}, "-1"),
        ({"device_map": {"a": True}}, "True"),
        ({"device_map": ["a"]}, "list"),
        ({**ONE_GPU, "device_map": {"": 1}}, "numbered from 0"),
        ({**ONE_GPU, "device_map": {"": "cuda:0"}}, "simgpu"),
        ({**ONE_GPU, "max_memory": {3: "1GiB"}}, "numbered from 0"),
        ({"max_memory": {"gpu": "1GiB"}}, "not a device that max_memory knows"),
        ({"max_memory": {0: "much"}}, "not a size"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_right(values, says):
    with pytest.raises(SpecError) as caught:
        LoadSpec(**{"model": "tiny", **values})
    assert says in str(caught.value)
    assert "Next:" in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, LoadSpec("m")),
        ({"DEVICE_MAP": "", "QUANTIZE": " "}, LoadSpec("m")),
        ({"DEVICE_MAP": "cuda"}, LoadSpec("m", device_map="single")),
        ({"DEVICE_MAP": "GPU"}, LoadSpec("m", device_map="single")),
        ({"DEVICE_MAP": "off", "QUANTIZE": "8bit"}, LoadSpec("m", device_map="none", quantization="int8")),
        ({"DEVICE_MAP": '{"": "cpu"}'}, LoadSpec("m", device_map={"": "cpu"})),
        ({"QUANTIZE": "4bit"}, LoadSpec("m", quantization="nf4")),
        ({"MAX_MEMORY": '{"0": "1GiB"}'}, LoadSpec("m", max_memory={0: "1GiB"})),
    ],
)
def test_the_environment_of_a_service_makes_the_spec(environ, expected):
    assert LoadSpec.from_env("m", environ) == expected


@pytest.mark.parametrize("variable", ["DEVICE_MAP", "QUANTIZE", "MAX_MEMORY"])
def test_an_unknown_environment_value_is_an_error_and_never_auto(variable):
    with pytest.raises(SpecError) as caught:
        LoadSpec.from_env("m", {variable: "bogus"})
    assert variable in str(caught.value)


def test_grid_goes_hardware_by_hardware_and_shares_the_rest():
    specs = grid("tiny", ["auto", "cpu"], "none", hardware=[None, "1GiB"], dtype="float32")
    assert [(s.hardware_text, s.device_map) for s in specs] == [
        ("this machine", "auto"), ("this machine", "cpu"), ("1GiB", "auto"), ("1GiB", "cpu"),
    ]  # fmt: skip
    assert {s.dtype for s in specs} == {"float32"}


def test_repr_shows_what_is_not_the_default():
    assert repr(LoadSpec("tiny")) == "LoadSpec('tiny', device_map='auto')"
    assert "hardware='2x1GiB'" in repr(diag.LoadSpec("tiny", hardware="2x1GiB"))
