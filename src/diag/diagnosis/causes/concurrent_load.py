"""concurrent-load: two threads loaded models at the same time."""

from diag.diagnosis.cause import COPY, HEADLINE, Cause, Fixes, Point, Points, cases_of, texts_of
from diag.diagnosis.evidence import Evidence, Trace
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="concurrent-load",
    rank=40,
    title="Two threads loaded models at the same time",
    versions="transformers before 5 and libraries that use init_empty_weights(); transformers 5.23 itself does not",
    explanation="accelerate's init_empty_weights() changes nn.Module for the whole process while it is active, so a "
    "model that another thread builds in the same moment lands on meta as well. A service that loads on first request "
    "meets this when two requests arrive together. It fails only sometimes, and in a different place each time.",
    proves=("The load ran in a thread while another one was loading.", "A single load in the same process is clean."),
    rules_out=("Only one thread loads.",),
    check="Does it fail only sometimes, and does the traceback run through a thread pool?",
    fix="Load once, before requests are served, under a lock; answer 503 until then.",
    avoid=("retrying the load in each thread: the retries overlap again.",),
    seen_as=(COPY, HEADLINE),
    texts=texts_of(r"""
        near meta: several threads are at work
            4: threadpool|severalthreads|multi-?thread|concurrent(?:ly|request)|threading\.thread
    """),
    cases=cases_of("""
        T76 threads load models at once: huggingface/transformers#41782 huggingface/transformers#40357
            docling-project/docling-serve#175
    """),
    is_act=True,
)


def behind(found: Finding, e: Evidence) -> Finding | None:
    """A model without data that was loaded in a pool's thread: another thread's context is the usual reason."""
    empty = e.found(cause="never-materialised")
    if empty is None or empty != found or e.trace is None:
        return None
    frames = e.trace.report.frames
    pool = next((n for n, f in enumerate(frames) if f.inside("futures/thread.py", "threading.py")), len(frames))
    if not any("load" in frame.function or "from_pretrained" in frame.function for frame in frames[pool:]):
        return None
    because = ("The model was loaded in a thread of a pool, and holds no data.", *empty.because)
    check = ("Did another thread load or plan a model at the same time?",)
    return CAUSE.finding("likely", empty.tensors, silent=False, because=because, check=check)


def from_text(trace: Trace) -> Points:
    threaded = trace.passes("threading.py", "concurrent/futures")
    if trace.copies_meta and trace.passes("sentence_transformers") and not threaded:
        yield Point(3, "sentence-transformers moves a model right after building it")
    in_pool = trace.passes("concurrent/futures/thread.py", "threading.py", "multiprocessing/pool.py")
    if trace.says("meta") and trace.loading and (in_pool or trace.says("threadpoolexecutor")):
        yield Point(11, "a model was loaded in a thread")


def fixes(finding: Finding, situation: Situation) -> Fixes:
    return situation.reload_alike()
