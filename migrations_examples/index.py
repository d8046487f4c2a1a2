"""Writes README.md, the index of this folder, from the folders' own: `python migrations_examples/index.py`."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def index() -> str:
    """The text of the index."""
    lines = [
        "# Examples",
        "",
        "One folder a change: the migration, the models of versions N and N+1, a seed, and what each phase does.",
        "`catalog.json` is what `zdmigrate plan --write-stats` read of it: `zdmigrate plan --stats catalog.json` in the folder",
        "shows the plan without a database. `zdmigrate demo --example NAME` runs it, with both versions at work; `example.py`",
        "holds what is to be known of the values ([how to write one](../docs/howto/examples.md)).",
        "",
    ]
    for folder in sorted(path.parent for path in HERE.glob("*/README.md")):
        title = (folder / "README.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        lines.append(f"* [{title}]({folder.name}/README.md)")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "README.md").write_text(index(), encoding="utf-8")
