"""Progress: plain lines where nobody watches, one for each row."""

from diag.sweep.state import Progress

ROW = {"device_map": "auto", "quantization": "nf4", "hardware": "this machine", "status": "ok"}


def test_each_row_is_one_plain_line(capsys):
    seen = []
    with Progress(2, True, seen.append) as bar:
        bar.row(ROW)
        bar.row({**ROW, "status": "killed"}, from_file=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "1/2 auto × nf4 on this machine: ok" in lines[0]
    assert "killed (stored)" in lines[1] and seen == [ROW, {**ROW, "status": "killed"}]


def test_silence_is_silent_but_rows_still_arrive(capsys):
    seen = []
    with Progress(1, False, seen.append) as bar:
        bar.row(ROW)
        bar.say("hello")
    assert capsys.readouterr().err == "" and seen == [ROW]
