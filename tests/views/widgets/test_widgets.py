"""The widgets, driven as a front end drives them, and their static forms; no browser is needed here."""

import gc
import re
import weakref
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pandas as pd
import pytest
from torch import nn

import diag
from diag.errors import NotAModelError
from diag.reproduce.scenario import Stage
from diag.values.units import format_size
from diag.views import widgets
from diag.views.strips import totals, units
from diag.views.widgets import explorer as explorer_module
from diag.views.widgets.choosing import Choice, condensed, totals_text
from diag.views.widgets.explorer import cells_of
from diag.views.widgets.live import WIDGET_MIME
from diag.views.widgets.player import changed, changes_view

pytest.importorskip("ipywidgets")


def built(widget):
    assert widget.widget is not None
    return widget


def is_usable(button) -> bool:
    return "diag-off" not in button._dom_classes


@pytest.fixture(scope="module")
def offloaded() -> pd.DataFrame:
    return diag.placement(diag.load(diag.LoadSpec("tiny", device_map="offload", hardware="1GiB+4GiB")).model)


def fifty_thousand(table: pd.DataFrame) -> pd.DataFrame:
    many = pd.concat([table] * (50_000 // len(table) + 1), ignore_index=True)[:50_000]
    return many.assign(name=[f"model.layers.{n}.weight" for n in range(50_000)], tied_group=range(50_000))


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
    assert totals_text(both, both).startswith("2 of 2 names, 1 of 1 tensors, 128 KiB of 128 KiB")


def test_a_condensed_table_draws_the_same_strip(offloaded):
    assert units(condensed(offloaded)) == units(offloaded)
    assert totals(condensed(offloaded)) == totals(offloaded)


def test_totals_and_rows_follow_the_filter(offloaded, live):
    explorer = widgets.placement_explorer(offloaded)
    assert WIDGET_MIME in explorer._repr_mimebundle_()
    explorer._controls["backing"].value = "offloaded"
    expected = offloaded[offloaded.backing == "offloaded"]
    assert explorer.chosen.equals(expected)
    assert f"{len(expected)} of {len(offloaded)} names" in explorer._summary.value
    assert list(explorer._sortable.df["tensor"]) == list(expected["name"])


def test_the_first_4000_of_50000_rows_can_be_sorted_and_every_one_can_be_reached(offloaded, live):
    explorer = built(widgets.placement_explorer(fifty_thousand(offloaded)))
    assert (len(explorer.chosen), len(explorer._sortable.df)) == (50_000, 4000)
    assert "Rows 1–4,000 of 50,000; the others are in the DataFrame" in explorer._rows.value
    explorer._controls["module"].value = "layers.4999"
    assert len(explorer.chosen) == 11 and "All 11 rows." in explorer._rows.value
    assert explorer._sortable.df["tensor"].iloc[-1] == "model.layers.49999.weight"


def test_sizes_sort_by_their_bytes(offloaded):
    shown = cells_of(offloaded)["size"]
    assert list(shown.sort_values()) == list(map(format_size, sorted(offloaded["nbytes"])))


def test_without_a_front_end_4000_rows_can_be_sorted_offline(offloaded, still):
    bundle = widgets.placement_explorer(fifty_thousand(offloaded))._repr_mimebundle_()
    page = bundle["text/html"]
    assert WIDGET_MIME not in bundle and "Rows 1–4,000 of 50,000; the others are in the DataFrame" in page
    assert "model.layers.3999.weight" in page and "model.layers.4000.weight" not in page
    fetched = r"""<(script|link|img|iframe)\b[^>]*(src|href)=|import\(["'](https?:)?//|from ["'](https?:)?//"""
    assert not re.search(fetched, page) and "unpkg" not in page and "jsdelivr" not in page


def test_without_itables_the_first_rows_are_a_plain_table(offloaded, monkeypatch, live):
    monkeypatch.setattr(explorer_module, "has_itables", lambda: False)
    explorer = built(widgets.placement_explorer(fifty_thousand(offloaded)))
    for shown in (explorer._rows.value, explorer.view().html):
        assert "Rows 1–200 of 50,000; the others are in the DataFrame" in shown and "diag[explore]" in shown
        assert shown.count("<tr>") >= 200 and "<script" not in shown


def test_a_filter_that_fits_nothing_says_so(offloaded, live):
    explorer = built(widgets.placement_explorer(offloaded, Choice(module="no.such.module")))
    assert "Nothing fits the filter" in explorer._summary.value


def test_the_explorer_keeps_no_model_alive(live):
    model = nn.Linear(3, 3)
    explorer = built(widgets.placement_explorer(model))
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
    explorer = built(widgets.placement_explorer(evil))
    assert "<img" not in explorer._rows.value + explorer._summary.value and "<script" not in explorer._summary.value
    many = pd.concat([evil] * 4, ignore_index=True)
    for shown in (explorer.view().html, widgets.placement_explorer(many).view().html):
        assert "<img" not in shown and "<b>" not in shown


def test_the_player_shows_code_output_and_what_changed(live):
    player = built(widgets.step_player("hooks-removed"))
    assert not is_usable(player._why)
    for _ in player.scenario.steps:
        player._next.click()
    assert not is_usable(player._next) and "It is over" in player._status.value
    shown = player._shown.value.replace("<wbr>", "")
    assert "remove_hook_from_module" in shown and "is not on the expected device" in shown
    assert "18 of 59 names changed." in shown and "offloaded" in shown
    player._why.click()
    assert "hooks-removed" in player._card.value
    player._back.click()
    assert player._shown.value.count("<h3>") == 0 and is_usable(player._next)
    player.close()
    assert player.stage.model is None and not player.stage.folder.exists()


def test_without_a_front_end_the_whole_play_is_shown(still):
    player = widgets.step_player("quantized-offload-refused")
    bundle = player._repr_mimebundle_()
    assert "Make sure you have enough GPU RAM" in bundle["text/html"] and WIDGET_MIME not in bundle


def test_a_step_without_effect_on_the_table_says_so(offloaded):
    assert str(changes_view(offloaded, offloaded)) == "Nothing changed in the table."
    moved = offloaded.assign(device=["cpu", *offloaded.device[1:]])
    assert changed(offloaded, moved).to_dict("records") == [
        {"name": offloaded.name[0], "what": "device", "before": "simgpu:0", "after": "cpu"}
    ]


def test_an_error_inside_the_player_is_shown_in_it(live, monkeypatch):
    player = built(widgets.step_player("quantized-offload-refused"))
    player._next.click()
    monkeypatch.setattr(Stage, "diagnose", lambda _: 1 / 0)
    player._why.click()
    assert "ZeroDivisionError: division by zero" in player._card.value


def test_a_press_that_can_do_nothing_is_answered_and_its_button_keeps_the_focus(live):
    player = built(widgets.step_player("quantized-offload-refused"))
    for press, says in ((player._why, "Play a step first"), (player._back, "This is the start")):
        press.click()
        assert says in player._status.value and not press.disabled
    for _ in range(len(player.scenario.steps) + 1):
        player._next.click()
        assert not player._next.disabled, "a front end takes the focus from a disabled button"
    assert "There is no further step" in player._status.value


def test_a_press_made_while_a_step_was_played_does_not_play_the_next(live, monkeypatch):
    """The kernel hears of such a press only when the step is done; the front end's clock tells when it was made."""
    player = built(widgets.step_player("hooks-removed"))
    pressed = datetime(2026, 1, 1, tzinfo=UTC)
    parent = {"header": {"date": pressed}}
    shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda: parent))
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    player._next.click()
    parent["header"]["date"] = pressed + timedelta(microseconds=1)
    player._next.click()
    assert len(player._views) == 1 and "was not counted" in player._status.value
    parent["header"]["date"] = pressed + timedelta(minutes=5)
    player._next.click()
    assert len(player._views) == 2
