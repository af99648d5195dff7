"""out-of-memory: A device or the host ran out of memory."""

from diag.diagnosis.cause import OUT_OF_MEMORY, Cause, Fixes, texts_of
from diag.diagnosis.situation import Situation
from diag.values.finding import Finding

CAUSE = Cause(
    id="out-of-memory",
    rank=270,
    title="A device or the host ran out of memory",
    shown_on="simulated",
    explanation="An allocation was larger than what was left. While loading, the weights do not fit; while running, "
    "activations and the key-value cache came on top. A host that runs out is often killed without a word (exit 137, "
    "SIGKILL).",
    proves=("The allocator says so, or the process was killed by the system.",),
    rules_out=("Nothing was being allocated.",),
    check="Did it happen while loading or while running, and on which device?",
    fix="Load with device_map='auto' and a max_memory that leaves room for activations, quantize, or shorten the "
    "inputs.",
    avoid=("emptying the cache in a loop: it only gives back memory that is unused anyway.",),
    seen_as=(OUT_OF_MEMORY,),
    texts=texts_of(r"""
        a device ran out of memory
            10: (?:cuda|hip|xpu|mps|npu|musa|mlu|privateuse\w*|simgpu\S*)(?:error:)? (?:backend)? out of memory
            9: (?<!java\.lang\.)outofmemoryerror(?!: ?java)
        Metal could not allocate a buffer of that size
            8: invalid buffer size: ?[\d.]+ ?[kmgt]i?b
        the host ran out of memory
            10: defaultcpuallocator: (?:can't allocate memory|not enough memory)
            8: cannot allocate memory|unable to allocate [\d.]+ [kmgt]ib|\(os error 1455\)|paging file is too small
            8: (?<!outof)memoryerror
        cuBLAS could not allocate its workspace
            8: cublas_status_alloc_failed
        the process was killed, as the system does when memory runs out
            7: exit(?:ed with)? (?:code|status)[:=]? ?137|oomkill|oom-kill|out of memory: killed process
               |died with.*sigkill:? ?9
    """),
    is_act=True,
    memory_ran_short=True,
)


def fixes(finding: Finding, situation: Situation) -> Fixes:
    why = "what does not fit goes to the CPU and to disk"
    return (*situation.reload_with_map("auto", why), *situation.reload_unquantized())
