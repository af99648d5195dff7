"""The mistakes that the small service can make, and what each does. Standard library only."""

from __future__ import annotations

MISTAKES = {
    "none": "it answers rightly",
    "inputs-to-model-device": "inputs go to model.device, which is meta where the embedding is offloaded",
    "hooks-lost": "the hooks that bring offloaded weights in are taken off after loading",
    "calls-at-once": "requests are not queued, so that overlapping calls share one offloaded model's hooks",
}
