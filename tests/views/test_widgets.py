"""The widgets, driven as a front end drives them, and their static forms; no browser is needed here."""

import time

import pandas as pd
import pytest
from torch import nn

import diag
from diag.errors import NotAModelError, SpecError
from diag.views import widgets
from diag.views.strips import totals, units
from diag.views.widgets.changes import changed, changes_view
from diag.views.widgets.choosing import Choice, condensed, totals_text
from diag.views.widgets.live import WIDGET_MIME
from diag.views.widgets.paging import Page

pytest.importorskip("ipywidgets")


@pytest.fixture(scope="module")
def offloaded() -> pd.DataFrame:
    return diag.placement(diag.load(diag.LoadSpec("tiny", device_map="offload", hardware="1GiB+4GiB")).model)


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setenv("DIAG_WIDGETS", "1")


@pytest.fixture
def still(monkeypatch):
    monkeypatch.setenv("DIAG_WIDGETS", "0")


def fifty_thousand(table: pd.DataFrame) -> pd.DataFrame:
    many = pd.concat([table] * (50_000 // len(table) + 1), ignore_index=True)[:50_000]
    return many.assign(name=[f"model.layers.{n}.weight" for n in range(50_000)], tied_group=range(50_000))


# --- choosing and paging ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "condition"),
    [
        (Choice(device="meta"), lambda t: t.device == "meta"),
        (Choice(backing="offloaded"), lambda t: t.backing == "offloaded"),
        (Choice(module="LAYERS.3."), lambda t: t.name.str.contains("layers.3.", regex=False)),
        (Choice(module="*.mlp.*"), lambda t: t.name.str.contains(".mlp.", regex=False)),
        (Choice(module="layers[0]"), lambda t: t.name == "no such name"),
        (Choice(at_least=16384), lambda t: t.nbytes >= 16384),
        (Choice(kind="parameter", dtype="float32"), lambda t: (t.kind == "parameter") & (t.dtype == "float32")),
    ],
)
def test_a_choice_keeps_exactly_the_rows_it_names(offloaded, choice, condition):
    assert choice.apply(offloaded).equals(offloaded[condition(offloaded)])


def test_the_largest_come_first_when_asked(offloaded):
    assert Choice(order="largest first").apply(offloaded)["nbytes"].is_monotonic_decreasing


def test_totals_count_a_tied_tensor_once(offloaded):
    both = offloaded[offloaded["tied_group"].duplicated(keep=False)]
    assert len(both) == 2
    assert totals_text(both, both).startswith("2 of 2 names, 1 of 1 tensors, 128 KiB of 128 KiB")


def test_a_condensed_table_draws_the_same_strip(offloaded):
    assert units(condensed(offloaded)) == units(offloaded)
    assert totals(condensed(offloaded)) == totals(offloaded)


@pytest.mark.parametrize(
    ("total", "number", "says"),
    [(0, 1, "no rows"), (120, 3, "rows 101–120 of 120"), (120, 99, "rows 101–120 of 120"), (1, 1, "rows 1–1 of 1")],
)
def test_a_page_says_which_rows_it_shows(total, number, says):
    assert Page(total, number).says == says


# --- the explorer -----------------------------------------------------------------------------------------------------


def test_totals_and_rows_follow_the_filter(offloaded, live):
    explorer = widgets.placement_explorer(offloaded)
    assert WIDGET_MIME in explorer._repr_mimebundle_()
    explorer._controls["backing"].value = "offloaded"
    expected = offloaded[offloaded.backing == "offloaded"]
    assert explorer.chosen.equals(expected)
    assert f"{len(expected)} of {len(offloaded)} names" in explorer._summary.value
    assert "model.layers.0." not in explorer._rows.value.replace("<wbr>", "")


def test_every_one_of_50000_rows_can_be_reached(offloaded, live):
    explorer = widgets.placement_explorer(fifty_thousand(offloaded))
    assert explorer.widget is not None and len(explorer.chosen) == 50_000
    explorer._pager._go(1000)
    assert "model.layers.49999.weight" in explorer._rows.value.replace("<wbr>", "")
    assert "rows 49,951–50,000 of 50,000" in explorer._pager._label.value
    explorer._controls["module"].value = "layers.4999"
    assert len(explorer.chosen) == 11 and explorer._pager.page.number == 1


def test_without_a_front_end_the_static_view_says_what_it_leaves_out(offloaded, still):
    bundle = widgets.placement_explorer(fifty_thousand(offloaded))._repr_mimebundle_()
    assert WIDGET_MIME not in bundle
    assert "Rows 1–200 of 50,000; the others are in the DataFrame" in bundle["text/html"]


def test_a_filter_that_fits_nothing_says_so(offloaded, live):
    explorer = widgets.placement_explorer(offloaded, Choice(module="no.such.module"))
    assert explorer.widget is not None and "Nothing fits the filter" in explorer._summary.value


def test_the_explorer_keeps_no_model_alive(live):
    import gc
    import weakref

    model = nn.Linear(3, 3)
    explorer = widgets.placement_explorer(model)
    assert explorer.widget is not None
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None and len(explorer.table) == 2


def test_the_explorer_refuses_what_has_no_tensors_and_shows_why_a_load_failed():
    with pytest.raises(NotAModelError):
        widgets.placement_explorer(3)
    failed = diag.load(diag.LoadSpec("tiny", device_map="disk", quantization="nf4", hardware="1GiB+4GiB"))
    assert "can't be offloaded" in str(widgets.placement_explorer(failed))


def test_names_from_a_checkpoint_are_escaped(offloaded, live):
    evil = offloaded.assign(name="<img src=x onerror=alert(1)>", module="<script>", module_class="<b>")
    explorer = widgets.placement_explorer(evil)
    assert explorer.widget is not None
    assert "<img" not in explorer._rows.value + explorer._summary.value and "<script" not in explorer._summary.value


# --- the step player --------------------------------------------------------------------------------------------------


def test_the_player_shows_code_output_and_what_changed(live):
    player = widgets.step_player("hooks-removed")
    assert player.widget is not None and player._why.disabled
    for _ in player.scenario.steps:
        player._next.click()
    assert player._next.disabled and "It is over" in player._status.value
    shown = player._shown.value.replace("<wbr>", "")
    assert "remove_hook_from_module" in shown and "is not on the expected device" in shown
    assert "18 of 59 names changed." in shown and "offloaded" in shown
    player._why.click()
    assert "hooks-removed" in player._card.value
    player._back.click()
    assert player._shown.value.count("<h3>") == 0 and not player._next.disabled
    player.close()


def test_without_a_front_end_the_whole_play_is_shown(still):
    player = widgets.step_player("quantized-offload-refused")
    bundle = player._repr_mimebundle_()
    assert "Make sure you have enough GPU RAM" in bundle["text/html"] and WIDGET_MIME not in bundle
    player.close()


def test_a_step_without_effect_on_the_table_says_so(offloaded):
    assert str(changes_view(offloaded, offloaded)) == "Nothing changed in the table."
    moved = offloaded.assign(device=["cpu", *offloaded.device[1:]])
    assert changed(offloaded, moved).to_dict("records") == [
        {"name": offloaded.name[0], "what": "device", "before": "simgpu:0", "after": "cpu"}
    ]


# --- the matrix panel -------------------------------------------------------------------------------------------------


def panel_for(tmp_path, **values):
    chosen = {"device_maps": ["auto", "disk"], "quantizations": ["none"], **values}
    return widgets.matrix_panel("tiny", results=str(tmp_path / "r.sqlite"), **chosen)


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def test_the_panel_runs_shows_rows_and_opens_one(tmp_path, live):
    panel = panel_for(tmp_path)
    assert panel.widget is not None
    panel._go.click()
    frame = panel.wait(120)
    assert list(frame["status"]) == ["ok", "ok"] and "Done: 2 rows" in panel._status.value
    assert len(panel._list.children) == 2
    press = next(line.children[0] for line in panel._list.children if line.children[0].description == "disk · none")
    press.click()
    assert "works" in panel._details.children[0].value and "offloaded" in str(panel._details.children[1].children)


@pytest.mark.exhaustive
def test_cancel_keeps_the_rows_that_are_finished(tmp_path, live):
    panel = panel_for(tmp_path, device_maps=["auto", "disk", "single", "cpu"], quantizations=["none", "nf4"], workers=1)
    assert panel.widget is not None
    panel.start()
    wait_for(lambda: len(panel._rows) > 0)
    panel._stop.click()
    frame = panel.wait(60)
    finished = frame[frame.status != "not_run"]
    assert 0 < len(finished) < len(frame) and "They are kept" in panel._status.value
    again = panel_for(tmp_path, device_maps=["auto", "disk", "single", "cpu"], quantizations=["none", "nf4"])
    assert f"{len(finished)} of 8 rows are in" in str(again)


def test_the_price_is_told_before_a_weight_is_read(tmp_path, live):
    panel = panel_for(tmp_path, quantizations=["none", "nf4"])
    assert panel.widget is not None
    panel._price.click()
    assert "4 rows; 3 loads and 2 reference loads" in panel._status.value
    assert "1 refused beforehand" in panel._status.value and "to read" in panel._status.value
    assert not (tmp_path / "r.sqlite").exists()


def test_wrong_values_are_told_in_the_panel(tmp_path, live):
    panel = panel_for(tmp_path)
    assert panel.widget is not None
    panel._form._hardware.value = "2xlots"
    panel._go.click()
    assert "is not a size" in panel._status.value and panel._run is None
    with pytest.raises(SpecError):
        widgets.matrix_panel("tiny", ["nowhere"])


def test_the_form_reads_back_what_it_was_given(tmp_path, live):
    panel = panel_for(tmp_path, device_maps=["auto", {"": "cpu"}], hardware=["this machine", "24GiB,80GiB"])
    assert panel.widget is not None
    assert sorted(map(repr, panel._form.specs())) == sorted(map(repr, panel.specs))


def test_without_a_front_end_the_panel_says_what_it_would_run(tmp_path, still):
    bundle = panel_for(tmp_path)._repr_mimebundle_()
    assert "2 rows to run: diag.matrix(specs" in bundle["text/plain"] and WIDGET_MIME not in bundle


def test_an_error_inside_the_player_is_shown_in_it(live, monkeypatch):
    from diag.reproduce.scenario import Stage

    player = widgets.step_player("quantized-offload-refused")
    assert player.widget is not None
    player._next.click()
    monkeypatch.setattr(Stage, "diagnose", lambda _: 1 / 0)
    player._why.click()
    assert "ZeroDivisionError: division by zero" in player._card.value
    player.close()
