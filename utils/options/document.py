"""Writes the document of all flags: `python -m utils.options.document > docs/flags.md`."""

from utils.options.flags import FIELDS, names_of
from utils.options.recipes import RECIPES

INTRODUCTION = """# Flags

Written by `python -m utils.options.document`; `python main.py --help` shows the same.

Booleans take `True` or `False`; the flag alone means `True`. Abbreviated flags are refused.
The column *affects* says what a flag decides. Two runs that differ in such a flag have different
run folders, and a resumed run keeps its value. There are two exceptions: the place of the data,
because images are told apart by their content, and `--epochs` of stage 1, which may
[grow](running.md#stop-and-resume). A flag that affects only the command says which run is meant, or
what is done with it. A flag that affects nothing may change when a run is resumed.
Letters in capitals stand for the value of a flag; n_c is the number of training images of class c,
n_max that of the largest class, N the number of training images, K the number of classes.
"""


def document() -> str:
    """Returns the document in Markdown: a table for each group of flags, and the recipes."""
    groups: dict[str, list] = {}
    for field in FIELDS.values():
        groups.setdefault(field.metadata["group"], []).append(field)
    parts = [INTRODUCTION]
    for group, fields in groups.items():
        parts.append(f"## {group[0].upper()}{group[1:]}\n")
        parts.append("| flag | default | affects | meaning |\n|---|---|---|---|")
        parts += [_row(field) for field in fields]
        parts.append("")
    parts.append("## Recipes\n\n`--recipe NAME` stands for the flags of a whole method.\n")
    parts.append("| name | method |\n|---|---|")
    parts += [f"| `{name}` | {_cell(recipe.description)} |" for name, recipe in RECIPES.items()]
    return "\n".join(parts) + "\n"


def _row(field) -> str:
    names = ", ".join(f"`{name}`" for name in names_of(field.name))
    settings = field.metadata["settings"]
    meaning = _cell(field.metadata["help"])
    choices = settings.get("choices")
    if choices and "metavar" not in settings:
        meaning += f" ({', '.join(f'`{choice}`' for choice in choices)})"
    default = "" if field.default is None else f"`{field.default}`"
    return f"| {names} | {default} | {field.metadata['role'].value} | {meaning} |"


def _cell(text: str) -> str:
    """Returns the text with `|` escaped, so that it stays in its cell."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(document(), end="")
