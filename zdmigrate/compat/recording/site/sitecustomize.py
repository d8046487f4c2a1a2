"""Put in front of PYTHONPATH by `zdmigrate record`: starts the recorder, then the sitecustomize that it hides."""

import contextlib
import importlib.machinery
import importlib.util
import json
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))


def _start(directory: str) -> None:
    """The application's environment may be another one, without zdmigrate: then it is loaded from where this file is."""
    if importlib.util.find_spec("zdmigrate") is None:
        spec = importlib.util.spec_from_file_location(
            "zdmigrate", os.path.join(_PACKAGE, "__init__.py"), submodule_search_locations=[_PACKAGE]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["zdmigrate"] = module
        spec.loader.exec_module(module)
    from zdmigrate.compat.recording import hooks

    hooks.install(directory)


def _failed(directory: str, error: Exception) -> None:
    """Tell `zdmigrate record`, for example that the environment has a zdmigrate that cannot record."""
    with contextlib.suppress(OSError):
        line = json.dumps({"error": f"the recorder did not start in {sys.executable}: {type(error).__name__}: {error}"})
        with open(os.path.join(directory, f"{os.getpid()}.jsonl"), "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _chain() -> None:
    """Execute the next sitecustomize on the path, under the name of this one."""
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]
if os.environ.get("ZDMIGRATE_RECORD"):
    try:
        _start(os.environ["ZDMIGRATE_RECORD"])
    except Exception as error:  # noqa: BLE001  # the application goes on in any case
        _failed(os.environ["ZDMIGRATE_RECORD"], error)
_chain()
