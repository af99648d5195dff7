"""Memory per device against what it has: the same peak looks different on a small and on a large GPU."""

import json
import re

import pytest
from typed_frames import SIMULATED, frame, worked

from diag.views import plots
from diag.views.capacity import Peak, device_peaks, host_peak, peaks_in_words

PEAK = 298 * 2**20


def on(hardware, **changes):
    row = worked("auto", hardware=hardware, peak_device_bytes=json.dumps({"simgpu:0": PEAK}), **changes)
    return frame(row).iloc[0]


def widths(html, style="bar"):
    return [float(share) for share in re.findall(rf'class="{style}" style="width:([\d.]+)%" aria-hidden', html)]


def test_one_peak_fills_a_small_gpu_and_not_a_large_one():
    rows = worked("auto", hardware="300MiB"), worked("cpu", hardware="24GiB")
    peaks = {"peak_device_bytes": json.dumps({"simgpu:0": PEAK}), "forward_seconds": None}
    view = plots.memory_and_time(frame(*({**row, **peaks} for row in rows)))
    assert widths(view.html)[1::2] == [99.3, 1.2]
    assert "298 MiB of 300 MiB on simgpu:0 (99%)" in view.text
    assert "298 MiB of 24 GiB on simgpu:0 (1%)" in view.text


def test_number_and_per_cent_stand_beside_each_bar():
    html = plots.memory_and_time(frame(worked("auto", hardware=SIMULATED))).html.replace("\u00a0", " ")
    for words in ("541 MiB of 8 GiB (7%)", "simgpu:0 270 MiB of 300 MiB (90%)", "simgpu:1 200 MiB of 300 MiB (67%)"):
        assert words in html


def test_what_others_hold_is_a_part_of_the_capacity():
    (peak,) = device_peaks(on("24GiB-6GiB"))
    assert (peak.room, peak.held, peak.others) == (24 * 2**30, 6 * 2**30, "others hold 6 GiB")
    html = plots.memory_and_time(frame(worked("auto", hardware="24GiB-6GiB"))).html
    assert widths(html, "bar held") == [25.0]


def test_a_real_device_is_held_against_what_was_free_before_the_load():
    free = json.dumps({"cpu": 2**33, "cuda:0": 2**30})
    row = worked("auto", peak_device_bytes=json.dumps({"cuda:0": 2**29}), free_bytes_before=free)
    said = peaks_in_words(frame(row).iloc[0])
    assert said == "541 MiB of 8 GiB free host memory (7%) and 512 MiB of 1 GiB free on cuda:0 (50%)"
    assert "free on a real one before the load" in plots.memory_and_time(frame(row)).html


def test_a_capacity_that_nobody_recorded_is_said_in_words():
    row = frame(worked("auto"))
    view = plots.memory_and_time(row)
    assert peaks_in_words(row.iloc[0]) == "541 MiB of host memory (capacity not recorded)"
    assert host_peak(frame(worked("auto", peak_host_bytes=None)).iloc[0]) is None, "it was not measured"
    assert "no recorded capacity: it is scaled to the largest peak" in view.html
    assert 'class="room"' not in view.html


def test_accelerators_have_no_column_where_there_are_none():
    assert "device peaks" not in plots.memory_and_time(frame(worked("auto"), worked("cpu"))).html
    assert "device peaks" in plots.memory_and_time(frame(worked("auto"), worked("auto", hardware=SIMULATED))).html


def test_devices_stand_in_their_order():
    sizes = json.dumps({f"simgpu:{number}": number for number in (0, 10, 2)}, sort_keys=True)
    row = frame(worked("auto", hardware="11x24GiB", peak_device_bytes=sizes)).iloc[0]
    assert [peak.device for peak in device_peaks(row)] == ["simgpu:0", "simgpu:2", "simgpu:10"]


@pytest.mark.parametrize(("peak", "words"), [(0, "0%"), (1, "< 1%"), (500, "50%"), (999, "> 99%"), (1000, "100%")])
def test_only_nothing_is_0_per_cent_and_only_all_is_100(peak, words):
    assert Peak("cuda:0", peak, 1000, "free").percent == words
