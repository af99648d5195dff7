"""concurrent-calls: several threads call one healthy offloaded model."""

from diag.reproduce.common import Scenario, Stage, load_with_disk, logits, step, token_ids


@step("run", "Call it from eight threads.")
def call_from_threads(stage: Stage) -> str:
    from concurrent.futures import ThreadPoolExecutor

    stage.inputs = {"input_ids": token_ids()}
    with ThreadPoolExecutor(8) as pool:
        for _ in range(50):  # as requests overlap in a service; one of the first rounds fails
            for call in [pool.submit(logits, stage.model) for _ in range(16)]:
                call.result()
    return "all calls answered"


TEACHES = "The headline error from a healthy model: overlapping calls share its hooks."
SCENARIO = Scenario("concurrent-calls", TEACHES, (load_with_disk, call_from_threads))
