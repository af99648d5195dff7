"""The choices of the matrix panel as controls: model, device maps, quantizations, hardware, results file."""

from collections.abc import Iterable, Sequence

from diag.errors import SpecError
from diag.loading import samples
from diag.values.spec import PRESETS, QUANTIZATIONS, LoadSpec, grid
from diag.views.widgets.live import control, html, row, scoped
from diag.views.wording import THIS_MACHINE

_SHARED = ("dtype", "max_memory", "offload_folder", "adapter", "loader", "probe")


class Form:
    """Controls that start with the values of `specs`; `specs()` reads them back. Raises SpecError for wrong ones."""

    def __init__(self, specs: Sequence[LoadSpec], results: str) -> None:
        from ipywidgets import VBox

        first = specs[0] if specs else LoadSpec("tiny")
        self._shared = {name: getattr(first, name) for name in _SHARED}
        self._model = control("Combobox", "model", value=first.model, options=samples.names(), ensure_option=False)
        machines = "; ".join(dict.fromkeys(spec.hardware_text for spec in specs)) or THIS_MACHINE
        self._hardware = control("Text", "hardware", value=machines, placeholder="this machine; 2x300MiB+8GiB")
        self._results = control("Text", "results", value=results)
        self._maps = _Boxes("device maps", PRESETS, (spec.device_map_text for spec in specs), none="no map")
        chosen = (spec.quantization for spec in specs)
        self._kinds = _Boxes("quantizations", QUANTIZATIONS, chosen, none="not quantized")
        texts = row(self._model, self._hardware, self._results)
        self.widget = VBox([texts, self._maps.widget, self._kinds.widget])

    @property
    def results(self) -> str:
        return self._results.value.strip() or "results.sqlite"

    def specs(self) -> list[LoadSpec]:
        machines = [text.strip() for text in self._hardware.value.split(";") if text.strip()] or [THIS_MACHINE]
        specs = grid(self._model.value.strip(), self._maps.chosen(), self._kinds.chosen(), machines, **self._shared)
        if not specs:
            raise SpecError("nothing is chosen.", next_step="tick at least one device map and one quantization.")
        return specs


class _Boxes:
    """A labelled group of checkboxes. Values that are not presets (a map as JSON, say) get a box of their own.

    A box is heard without its group's label, since ipywidgets can't tie them: `none` says what it means here.
    """

    def __init__(self, title: str, options: Iterable[str], chosen: Iterable[str], none: str) -> None:
        from ipywidgets import Checkbox, Layout

        ticked = set(chosen)
        looks = {"indent": False, "layout": Layout(width="auto", flex="0 0 auto")}
        names = {name: f"none ({none})" if name == "none" else name for name in (*options, *sorted(ticked))}
        self._boxes = {name: Checkbox(name in ticked, description=says, **looks) for name, says in names.items()}
        boxes = row(*self._boxes.values())
        boxes.layout.flex, boxes.layout.width = "1 1 16rem", "auto"
        self.widget = row(html(scoped("widgets/heading", title=title), layout={"width": "9rem"}), boxes)

    def chosen(self) -> list[str]:
        return [name for name, box in self._boxes.items() if box.value]
