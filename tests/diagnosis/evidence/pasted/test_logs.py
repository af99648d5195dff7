"""Long logs are read around their failures, in a few seconds, and say the same."""

from __future__ import annotations

import pytest

from diag.diagnosis.evidence.pasted.logs import near_failures
from diag.diagnosis.explain import explain_text

ACCESS = '2026-11-24 10:00:00,123 INFO uvicorn.access: 10.0.0.1 - "POST /v1/chat HTTP/1.1" 200 OK {"id": 1}\n'
FAILURE = """Traceback (most recent call last):
  File "/srv/a.py", line 3, in score
    return torch.where(mask, self.model.embed.weight, x)
RuntimeError: Tensor on device meta is not on the expected device cuda:0!
"""


@pytest.mark.timeout(120)
def test_a_failure_amid_a_log_of_20_megabytes_is_found_within_seconds():
    log = ACCESS * 140_000 + FAILURE + ACCESS * 60_000
    assert len(log) > 19_000_000
    assert explain_text(log)[0].cause == explain_text(FAILURE)[0].cause == "weight-used-outside-hook"


def test_what_loading_said_long_before_the_failure_is_kept():
    notice = "Some parameters are on the meta device because they were offloaded to the disk.\n"
    log = notice + ACCESS * 20_000 + FAILURE + ACCESS * 1000
    assert notice.strip() in near_failures(log)
    assert FAILURE in near_failures(log)


@pytest.mark.timeout(120)  # it hung the search
def test_an_encoded_image_in_a_log_is_not_searched_for_words():
    assert explain_text("image: " + "iVBORw0KGgo" * 80_000 + "\n" + FAILURE)[0].cause == "weight-used-outside-hook"


def test_a_short_text_is_read_as_a_whole():
    assert near_failures(FAILURE) == FAILURE


@pytest.mark.timeout(120)  # it took hours when one name in it could be as long as the text
def test_long_prose_without_a_full_stop_is_read_to_its_end():
    assert explain_text("abcdef ghi " * 50_000)[0].cause == "unknown"
