"""The matrix panel, driven as a front end drives it, and its static form; no browser is needed here."""

import threading
import time

import pytest

import diag
from diag.errors import SpecError
from diag.sweep.results.rows import blank_row, frame_of
from diag.views import widgets
from diag.views.widgets.live import WIDGET_MIME

ipywidgets = pytest.importorskip("ipywidgets")
MAPS = ["auto", "balanced", "balanced_low_0", "sequential", "single", "none", "cpu", "disk", "offload"]
MACHINES = ["this machine", "2x600KiB+8GiB"]


def panel_for(tmp_path, **values):
    chosen = {"device_maps": ["auto", "disk"], "quantizations": ["none"], **values}
    panel = widgets.matrix_panel("tiny", results=str(tmp_path / "r.sqlite"), **chosen)
    assert panel.widget is not None
    return panel


def is_usable(button) -> bool:
    return "diag-off" not in button._dom_classes


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def test_the_panel_runs_shows_rows_and_opens_one(tmp_path, live):
    panel = panel_for(tmp_path)
    panel._go.click()
    frame = panel.wait(120)
    assert list(frame["status"]) == ["ok", "ok"] and "Done: 2 rows" in panel._status.value
    assert len(panel._list.lines.children) == 2
    row_button(panel, "disk · none").click()
    said, explorer = panel._list.details.children
    assert "works" in said.value and "offloaded" in str(explorer.children)


@pytest.mark.exhaustive
def test_cancel_keeps_the_rows_that_are_finished(tmp_path, live):
    chosen = {"device_maps": ["auto", "disk", "single", "cpu"], "quantizations": ["none", "nf4"]}
    panel = panel_for(tmp_path, **chosen, workers=1)
    panel.start()
    wait_for(lambda: len(panel._rows) > 0)
    panel._stop.click()
    frame = panel.wait(60)
    finished = frame[frame.status != "not_run"]
    assert 0 < len(finished) < len(frame) and "They are kept" in panel._status.value
    assert f"{len(finished)} of 8 rows are in" in str(panel_for(tmp_path, **chosen))


def test_the_price_is_told_before_a_weight_is_read(tmp_path, live):
    panel = panel_for(tmp_path, quantizations=["none", "nf4"])
    panel._price.click()
    wait_for(lambda: "Planning" not in panel._status.value)
    assert "4 rows; 3 loads and 2 reference loads" in panel._status.value
    assert "1 refused beforehand" in panel._status.value and "to read" in panel._status.value
    assert not (tmp_path / "r.sqlite").exists()


def test_wrong_values_are_told_in_the_panel(tmp_path, live):
    panel = panel_for(tmp_path)
    panel._form._hardware.value = "2xlots"
    panel._go.click()
    assert "is not a size" in panel._status.value and panel._run is None
    with pytest.raises(SpecError):
        widgets.matrix_panel("tiny", ["nowhere"])


def test_the_form_reads_back_what_it_was_given(tmp_path, live):
    panel = panel_for(tmp_path, device_maps=["auto", {"": "cpu"}], hardware=["this machine", "24GiB,80GiB"])
    assert sorted(map(repr, panel._form.specs())) == sorted(map(repr, panel.specs))


def test_without_a_front_end_the_panel_says_what_it_would_run(tmp_path, still):
    bundle = panel_for(tmp_path)._repr_mimebundle_()
    assert "2 rows to run: diag.matrix(specs" in bundle["text/plain"] and WIDGET_MIME not in bundle


def alive() -> int:
    """How many widgets the kernel, and with it a front end, holds."""
    from ipywidgets.widgets.widget import _instances

    return len(_instances)


def row_buttons(panel):
    return [line.children[0] for line in panel._list.lines.children]


def row_button(panel, name: str):
    """The button of the row with this name, open or not."""
    return next(one for one in row_buttons(panel) if one.description.removeprefix("▾ ") == name)


def add_rows(panel) -> None:
    for spec in panel.specs:
        panel._add(blank_row(spec, "out_of_memory", "It did not fit."))


def test_54_rows_take_three_widgets_each(tmp_path, live):
    """Rebuilding all lines at each row once took 11,901 widgets."""
    panel = panel_for(tmp_path, device_maps=MAPS, quantizations=["none", "int8", "nf4"], hardware=MACHINES)
    before = alive()
    add_rows(panel)
    assert len(panel._rows) == len(panel._list.lines.children) == 54 and alive() - before <= 3 * 54 + 5


def test_a_row_that_arrives_replaces_no_button(tmp_path, live):
    panel = panel_for(tmp_path)
    first, second = (blank_row(spec, "out_of_memory", "It did not fit.") for spec in panel.specs)
    panel._add(first)
    line = panel._list.lines.children[0]
    held = line.children
    panel._add(second)
    assert panel._list.lines.children[0] is line and line.children == held


def test_opening_rows_leaves_no_widget_behind(tmp_path, live):
    panel = panel_for(tmp_path)
    panel.start()
    panel.wait(120)
    row_button(panel, "disk · none").click()
    row_button(panel, "auto · none").click()
    after_one = alive()
    for name in ("disk · none", "auto · none"):
        row_button(panel, name).click()
    assert alive() == after_one
    row_button(panel, "auto · none").click()
    assert panel._list.details.children == () and alive() < after_one


def test_the_open_row_is_marked_and_only_that_one(tmp_path, live):
    panel = panel_for(tmp_path)
    add_rows(panel)
    for name in ("auto · none", "disk · none"):
        press = row_button(panel, name)
        press.click()
        marked = [one for one in row_buttons(panel) if "diag-open" in one._dom_classes]
        assert marked == [press] and press.description == f"▾ {name}" and "shown below" in press.tooltip
        assert name.split(" ")[0] in panel._list.details.children[0].value


def test_a_load_that_did_not_finish_says_why_it_has_no_placement(tmp_path, live):
    panel = panel_for(tmp_path, device_maps=["single"], hardware="2x600KiB+8GiB")
    panel.start()
    assert list(panel.wait(120)["status"]) == ["out_of_memory"]
    row_button(panel, "single · none").click()
    said = panel._list.details.children[1].value
    assert "There is no placement to explore: the load did not finish." in said and "LoadSpec" not in said


def test_two_machines_and_two_kinds_of_none_are_told_apart(tmp_path, live):
    panel = panel_for(tmp_path, device_maps=["disk", "none"], hardware=MACHINES)
    add_rows(panel)
    buttons = row_buttons(panel)
    assert len({one.description for one in buttons}) == len({one.tooltip for one in buttons}) == 4
    boxes = [*panel._form._maps._boxes.values(), *panel._form._kinds._boxes.values()]
    assert len({box.description for box in boxes}) == len(boxes)
    assert [spec.device_map_text for spec in panel._form.specs()].count("none") == 2


def waits_for_cancel(specs, *_, cancelled, **__):
    wait_for(cancelled)
    return frame_of([blank_row(spec, "not_run", "Cancelled.") for spec in specs])


def test_rows_stored_before_count_when_a_run_is_cancelled_while_it_plans(tmp_path, live, monkeypatch):
    """It once said 'Cancelled after 0 of 54 rows. They are kept' above a list of 14."""
    diag.matrix(diag.grid("tiny", ["auto", "disk"], ["none"]), str(tmp_path / "r.sqlite"), progress=False)
    panel = panel_for(tmp_path, device_maps=["auto", "disk", "single", "cpu"])
    monkeypatch.setattr("diag.sweep.run.matrix", waits_for_cancel)
    panel._go.click()
    assert "2 of them are in" in panel._status.value and panel._bar.value == 2
    panel._stop.click()
    panel.wait(60)
    assert "Cancelled at 2 of 4 rows. They are kept" in panel._status.value
    assert panel._bar.value == len(panel._list.lines.children) == 2


def test_rows_of_another_file_are_not_listed(tmp_path, live, monkeypatch):
    panel = panel_for(tmp_path)
    add_rows(panel)
    panel._form._results.value = str(tmp_path / "other.sqlite")
    monkeypatch.setattr("diag.sweep.run.matrix", waits_for_cancel)
    panel._go.click()
    assert panel._list.lines.children == () and panel._bar.value == 0
    panel.cancel()
    panel.wait(60)


def test_presses_during_a_run_are_answered_and_no_button_is_disabled(tmp_path, live, monkeypatch):
    panel = panel_for(tmp_path)
    presses = (panel._go, panel._price, panel._stop)
    panel._stop.click()
    assert "Nothing is running" in panel._status.value and not is_usable(panel._stop)
    monkeypatch.setattr("diag.sweep.run.matrix", waits_for_cancel)
    panel._go.click()
    for press in (panel._go, panel._price):
        press.click()
        assert "The matrix is running" in panel._status.value and not is_usable(press)
    assert not any(press.disabled for press in presses) and is_usable(panel._stop)
    panel._stop.click()
    panel.wait(60)
    assert is_usable(panel._go) and not any(press.disabled for press in presses)


def test_the_price_is_planned_beside_the_kernel_and_tells_the_time(tmp_path, live, monkeypatch):
    go_on = threading.Event()

    def price(*_):
        go_on.wait(60)
        raise SpecError("the price was asked for.", next_step="nothing.")

    monkeypatch.setattr("diag.sweep.run.price", price)
    panel = panel_for(tmp_path)
    panel._price.click()
    assert "Planning 2 rows" in panel._status.value and not is_usable(panel._go)
    wait_for(lambda: "1 s" in panel._seconds.value, 10)
    panel._go.click()
    assert "The price is still being planned" in panel._status.value and panel._run is None
    go_on.set()
    wait_for(lambda: "the price was asked for" in panel._status.value and is_usable(panel._go), 10)
