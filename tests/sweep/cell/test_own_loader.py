"""Their loader, their adapter, through the matrix: a deliberate mistake is caught, and named by its cause."""

import json
import re

import pytest
import torch
from places import HELPERS

import diag
from diag.errors import UnsupportedError
from diag.sweep import run
from diag.sweep.cell.ownfiles import code_fingerprint
from diag.values.spec import PRESETS, LoadSpec


@pytest.fixture(autouse=True)
def _helpers_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HELPERS))


def own(name: str, **values) -> LoadSpec:
    return LoadSpec("tiny", loader=f"probe_helpers:{name}", **{"device_map": "cpu", **values})


def rows(specs, tmp_path, **values):
    return diag.matrix(specs, tmp_path / "r.sqlite", progress=False, **values)


MISTAKES = {
    "builds_on_meta_and_never_fills": "never-materialised",
    "removes_the_hooks": "hooks-removed",
    "moves_after_dispatch": "moved-after-dispatch",
    "replaces_a_forward": "forward-bypasses-hook",
}


def test_mistakes_in_a_loader_are_caught_and_named_by_their_cause(tmp_path):
    frame = rows([own(name) for name in MISTAKES], tmp_path)
    assert "ok" not in set(frame.status)
    for (name, cause), reason in zip(MISTAKES.items(), frame.reason):
        assert f"Cause: {cause} (" in reason, (name, reason)


def test_values_that_were_never_loaded_are_a_wrong_answer(tmp_path):
    frame = rows([own("fills_with_to_empty")], tmp_path)
    assert list(frame.status) == ["wrong_output"]
    assert "Cause: uninitialised-values" in frame.reason[0]


def test_a_right_loader_is_right_under_all_nine_presets(tmp_path):
    frame = rows([own("good", device_map=preset, hardware="2x300MiB+8GiB") for preset in PRESETS], tmp_path)
    assert list(frame.status) == ["ok"] * 9, list(frame.reason)
    offloaded = frame.set_index("device_map").n_offloaded
    assert offloaded["disk"] > offloaded["offload"] > 0


def test_a_refused_quantized_map_is_refused_for_a_loader_too(tmp_path):
    frame = rows([own("good", device_map="disk", quantization="nf4", hardware="2x300MiB+8GiB")], tmp_path)
    assert list(frame.status) == ["unsupported"] and "can't be offloaded" in frame.reason[0]


def test_a_preset_whose_map_can_not_be_written_is_refused_with_the_reason(tiny_copy):
    config = json.loads((tiny_copy / "config.json").read_text())
    config.update(model_type="own-type", architectures=["Own"], auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    (tiny_copy / "config.json").write_text(json.dumps(config))
    spec = LoadSpec(str(tiny_copy), "disk", loader="probe_helpers:good")
    error = diag.load(spec).error
    assert isinstance(error, UnsupportedError) and "can't be built" in error.why
    assert diag.load(spec.replace(device_map="cpu")).ok, "only the map needs the class"


def test_an_adapter_on_a_loader_that_offloads_to_disk_is_refused(adapters):
    spec = LoadSpec("tiny", {"": "disk"}, adapter=adapters["trained"], loader="probe_helpers:good")
    for one in (spec, spec.replace(device_map="disk"), spec.replace(device_map="cpu", loader="probe_helpers:to_disk")):
        assert "rewrite the base's own checkpoint" in str(diag.load(one).error)


def test_a_right_loader_is_right_under_every_map_and_its_quantized_twin_packs_the_same(tmp_path):
    specs = [own("good", device_map=m, quantization=q) for m in ("cpu", "none") for q in ("none", "nf4")]
    frame = rows(specs, tmp_path)
    assert list(frame.status) == ["ok"] * 4, list(frame.reason)
    assert (frame.n_quantized[frame.quantization == "nf4"] > 0).all()
    assert not frame.reason.str.contains("Cause:").any()


def test_what_a_loader_did_otherwise_is_said_in_the_reason(tmp_path):
    machine = "2x300MiB+8GiB"
    specs = [
        own("loads_half_precision"), own("halves_one_layer"),
        own("ignores_the_map", device_map="auto", hardware=machine), own("ignores_the_map", device_map="offload"),
        own("takes_nothing"), own("raises"),
    ]  # fmt: skip
    frame = rows(specs, tmp_path)
    assert list(frame.status) == ["wrong_output", "forward_error", "ok", "ok", "load_error", "load_error"]
    half, layer, auto, offload, nothing, raises = frame.reason
    assert "in float16, and the same checkpoint, loaded as asked, in float32" in half
    assert "2 dtypes: 3 in float16, 'model.layers.1.mlp." in layer
    assert "every tensor is on the CPU, none on simgpu:0, simgpu:1" in auto
    assert "no tensor is offloaded" in offload
    assert "Cause:" not in nothing and "can't be called with what a loader is given" in nothing
    assert re.search(r"My own trouble. At probe_helpers.py:\d+ in raises", raises)


def test_a_probe_that_is_wrong_itself_is_not_blamed_on_the_model(tmp_path):
    probes = ("text_of_nothing", "raises_by_itself")
    frame = rows([LoadSpec("tiny", "cpu", probe=f"probe_helpers:{name}") for name in probes], tmp_path)
    assert list(frame.status) == ["unchecked", "unchecked"], list(frame.reason)
    assert "returned a str" in frame.reason[0] and "probe trouble" in frame.reason[1]
    assert not frame.reason.str.contains("Cause:").any()


def test_a_changed_helper_beside_a_loader_changes_its_fingerprint(tmp_path, monkeypatch):
    package = tmp_path / "theirs"
    package.mkdir()
    files = {"entry.py": "from . import first\nimport torch\n", "first.py": "from theirs.deep import x\n"}
    for name, text in {"__init__.py": "", **files, "deep.py": "x = 1\n", "apart.py": ""}.items():
        (package / name).write_text(text)
    (tmp_path / "flat.py").write_text("def load(**_):\n    import theirs.entry\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def fingerprints():
        return [code_fingerprint(LoadSpec("tiny", loader=name)) for name in ("theirs.entry:load", "flat:load")]

    before = fingerprints()
    (package / "apart.py").write_text("not_imported = 1\n")
    assert fingerprints() == before
    (package / "deep.py").write_text("x = 2222\n")
    assert not set(fingerprints()) & set(before)


def test_a_loader_that_forgets_the_quantization_is_told_so(tmp_path):
    frame = rows([own("ignores_quantization", quantization="nf4")], tmp_path)
    assert frame.n_quantized[0] == 0
    assert "0 of 43 linear layers are packed" in frame.reason[0]


@pytest.mark.exhaustive
def test_a_loader_that_returns_something_else_is_an_error_that_says_what_to_return(tmp_path):
    frame = rows([own("not_a_model"), LoadSpec("tiny", loader="probe_helpers:absent")], tmp_path)
    assert list(frame.status) == ["load_error", "load_error"]
    assert "returned a dict" in frame.reason[0] and "has no 'absent'" in frame.reason[1]


@pytest.mark.exhaustive
def test_a_changed_loader_or_saved_request_is_asked_again(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text("from probe_helpers import good as load\n")
    (tmp_path / "request.json").write_text(json.dumps({"input_ids": [[1, 2, 3]]}))
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = LoadSpec("tiny", "cpu", loader="theirs:load", probe=str(tmp_path / "request.json"))
    assert list(rows([spec], tmp_path).status) == ["ok"]
    original, seen = run._note_end, []
    monkeypatch.setattr(run, "_note_end", lambda sweep, ended: (seen.append(ended.key), original(sweep, ended)))
    rows([spec], tmp_path)
    assert seen == []
    (tmp_path / "theirs.py").write_text("from probe_helpers import removes_the_hooks as load  # now wrong\n")
    assert list(rows([spec], tmp_path).status) == ["forward_error"]
    (tmp_path / "request.json").write_text(json.dumps({"input_ids": [[4, 5]]}))
    before = len(seen)
    rows([spec], tmp_path)
    assert len(seen) > before > 0


@pytest.fixture
def adapters(tmp_path, tiny_path):
    """An adapter that changes the answer, and one as it is before training, which changes nothing."""
    import peft
    import transformers

    found = {}
    for name, trained in (("trained", True), ("fresh", False)):
        base = transformers.LlamaForCausalLM.from_pretrained(tiny_path)
        model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        if trained:
            torch.manual_seed(0)
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    if "lora_B" in key:
                        parameter.normal_(std=2.0)
        model.save_pretrained(tmp_path / name)
        found[name] = str(tmp_path / name)
    return found


def test_the_row_of_an_adapter_says_whether_it_changes_the_answer(tmp_path, adapters):
    frame = rows([LoadSpec("tiny", "cpu", adapter=path) for path in adapters.values()], tmp_path)
    assert list(frame.status) == ["ok", "ok"], list(frame.reason)
    assert "The adapter changes the answer" in frame.reason[0] and "by up to" in frame.reason[0]
    assert "The adapter changes nothing" in frame.reason[1]


def test_an_adapter_on_a_base_that_is_offloaded_to_disk_is_refused_with_the_rule(tmp_path, adapters):
    frame = rows([LoadSpec("tiny", "disk", adapter=adapters["trained"])], tmp_path)
    assert list(frame.status) == ["unsupported"]
    assert "rewrite the base's own checkpoint" in frame.reason[0]
