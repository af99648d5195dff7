"""A checkpoint that is stored packed, through the matrix: a refused map is one row, and the others go on."""

import pytest

import diag
from diag.values.spec import LoadSpec, grid

MACHINE = "2x300MiB+8GiB"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("stored")
    diag.load(LoadSpec("tiny", "cpu", "nf4")).model.save_pretrained(folder)
    return str(folder)


def test_a_refused_map_of_a_stored_quantized_model_is_named_and_loses_only_its_own_row(stored, tmp_path):
    specs = grid(stored, ("auto", "disk", "offload"), ("as-stored",), MACHINE)
    frame = diag.matrix(specs, tmp_path / "r.sqlite", progress=False)
    assert list(frame.status) == ["ok", "unsupported", "unsupported"], list(frame.reason)
    assert frame.reason[1:].str.contains("can't be offloaded").all()


def test_an_error_of_a_library_that_no_rule_knows_is_the_row_it_belongs_to(tiny_copy, monkeypatch):
    from diag.sweep.cell.prepare import plan_specs
    from diag.sweep.cell.records import Request

    def refuses(*_, **values):
        if "disk" in values["device_map"].values():
            raise ValueError("some quantizer does not like this map")
        return original(*_, **values)

    from diag.loading import planning

    original = planning.skeleton
    monkeypatch.setattr(planning, "skeleton", refuses)
    specs = (LoadSpec(str(tiny_copy), {"": "disk"}), LoadSpec(str(tiny_copy), {"": "cpu"}))
    failed, fine = plan_specs(Request(specs)).plans
    assert fine.failure is None
    assert (failed.failure.status, failed.failure.error_type) == ("load_error", "ValueError")
    assert "some quantizer" in failed.failure.reason
