"""deepmr: does a sequence model believe that binding causes opening?

The names below are what one begins with. Each is loaded when it is first used, so `import deepmr` is quick (PEP 562).
"""
__version__ = "0.2.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters import adapt, stack
    from .answer import causal_effect
    from .core import Execution, InputError
    from .effects import mutation_effects
    from .experiment import Experiment
    from .meta import random_effects
    from .models import load_model
    from .mr import egger, ivw
    from .networks import SequenceModel
    from .pipeline import run
    from .regions import Genome, one_hot, read_regions
    from .tables import table1

_HOMES = {
    "Execution": "core", "Experiment": "experiment", "Genome": "regions", "InputError": "core", "SequenceModel": "networks",
    "adapt": "adapters", "causal_effect": "answer", "egger": "mr", "ivw": "mr", "load_model": "models",
    "mutation_effects": "effects", "one_hot": "regions", "random_effects": "meta", "read_regions": "regions",
    "run": "pipeline", "stack": "adapters", "table1": "tables",
}
__all__ = [
    "Genome", "read_regions", "one_hot", "load_model", "adapt", "stack", "SequenceModel", "mutation_effects", "causal_effect", "ivw", "egger",
    "random_effects", "Experiment", "Execution", "run", "table1", "InputError",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module
    if name not in _HOMES:
        raise AttributeError(f"module 'deepmr' has no attribute {name!r}")
    return getattr(import_module(f"deepmr.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
