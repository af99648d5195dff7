"""concurrent-load: two threads load at once, and one of them uses accelerate's context for empty models."""

from diag.reproduce.scenario import Scenario, Stage, step


@step("run", "Plan in one thread while another one loads.")
def load_in_two_threads(stage: Stage) -> None:
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    inside, done = threading.Event(), threading.Event()

    def plan_memory() -> None:  # one request plans with an empty model ...
        with init_empty_weights():
            inside.set()
            done.wait(60)

    def load_model() -> None:  # ... while another one loads: the context is the whole process's
        inside.wait(60)
        try:
            stage.model = AutoModelForCausalLM.from_pretrained(stage.checkpoint())
            stage.model.to("cpu")
        finally:
            done.set()

    with ThreadPoolExecutor(2) as pool:
        pool.submit(plan_memory)
        pool.submit(load_model).result()


SCENARIO = Scenario("concurrent-load", "One thread's context reaches into the other's load.", (load_in_two_threads,))
