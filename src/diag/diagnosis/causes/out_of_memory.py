"""out-of-memory: A device or the host ran out of memory."""

from diag.diagnosis.cause import Cause, Text
from diag.diagnosis.situation import Situation
from diag.diagnosis.symptoms import OUT_OF_MEMORY
from diag.values.finding import Finding, Fix

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
    texts=(
        Text(
            r"(?:cuda|hip|xpu|mps|npu|musa|mlu|privateuse\w*|simgpu\S*)(?:error:)? (?:backend)? out of memory",
            10,
            "a device ran out of memory",
            group=1,
        ),
        Text(r"(?<!java\.lang\.)outofmemoryerror(?!: ?java)", 9, "a device ran out of memory", group=1),
        Text(r"invalid buffer size: ?[\d.]+ ?[kmgt]i?b", 8, "Metal could not allocate a buffer of that size"),
        Text(
            r"defaultcpuallocator: (?:can't allocate memory|not enough memory)",
            10,
            "the host ran out of memory",
            group=2,
        ),
        Text(
            r"cannot allocate memory|unable to allocate [\d.]+ [kmgt]ib|\(os error 1455\)|"
            r"paging file is too small",
            8,
            "the host ran out of memory",
            group=2,
        ),
        Text(r"cublas_status_alloc_failed", 8, "cuBLAS could not allocate its workspace"),
        Text(r"(?<!outof)memoryerror", 8, "the host ran out of memory", group=2),
        Text(
            r"exit(?:ed with)? (?:code|status)[:=]? ?137|oomkill|oom-kill|out of memory: killed process"
            r"|died with.*sigkill:? ?9",
            7,
            "the process was killed, as the system does when memory runs out",
        ),
    ),
    is_act=True,
    memory_ran_short=True,
)


def fixes(finding: Finding, situation: Situation) -> tuple[Fix, ...]:
    why = "what does not fit goes to the CPU and to disk"
    return (*situation.reload_with_map("auto", why), *situation.reload_unquantized())
