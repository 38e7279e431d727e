"""`RESULTS.md`: the table, what it says, how it was made, and what is not run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.evaluation.shot_groups import GROUPS
from utils.reproduce.chains import Cell, Collection, Table
from utils.reproduce.entries import entry
from utils.reproduce.findings import DATASET_TITLES, findings
from utils.reproduce.ranking import rankings
from utils.reproduce.recipes import FULL_LENGTH, METHODS, PROTOCOLS, ROWS, Row
from utils.runs.records import RecordedRun

WANTED_SEEDS = 3

INTRODUCTION = """# The paper's table

Written by `python -m utils.reproduce` from the records in `runs/` alone
(`python -m utils.reproduce --table-only` writes it again); nothing here is typed by hand but the
comments, if there are any, which come from `COMMENTS.md`. The same numbers are in `table.json`.

Top-1 accuracy on the test set in percent, mean ± sample standard deviation (number of seeds), by
three protocols that each choose every link of the chain, from the stage-1 checkpoint to the
classifier's epoch: **test** on the test set, as the published numbers were made, which is
optimistic; **last** takes the last epoch of everything; **held-out** on training images that the
subset leaves out. Length: epochs of stage 1, then of stage 2's features + classifier. Rows cut
short are marked and are never averaged with others. "Final epoch" is the last epoch of the same
runs, whose earlier links the protocol has still chosen.
"""


def document(
    table: Table, collection: Collection, figures: dict[tuple[str, int], list[Path]], comments: str
) -> str:
    """The page.

    Args:
        table: the results.
        collection: the runs that they come from.
        figures: paths by data set and ratio, from the page's folder.
        comments: by hand, Markdown.
    """
    lines = [INTRODUCTION]
    if comments:
        lines += ["## Comments\n", comments.strip(), ""]
    for (dataset, ratio), cells in by_set(table).items():
        lines += [f"## {DATASET_TITLES.get(dataset, dataset)}, r = {ratio}\n"]
        lines += [*_table(table, cells), "", *_details(table, cells), ""]
        lines += [f"![{path.stem}]({path.as_posix()})" for path in figures[dataset, ratio]]
        for subject, sentences in findings(table, cells).items():
            lines += ["", f"### {subject}\n", *(f"- {sentence}" for sentence in sentences)]
        for ranking in rankings(table, cells):
            lines += ["", "### Which reading of the robust loss do held-out images choose?\n"]
            lines += ranking.lines()
        lines += [""]
    lines += ["## Not run\n", *_not_run(table), ""]
    lines += ["## How it was made\n", *_made(collection), ""]
    return "\n".join(lines)


def by_set(table: Table) -> dict[tuple[str, int], list[Cell]]:
    """The table's cells in the order of its rows, by data set and ratio."""
    methods, rows = list(METHODS), {row: i for i, row in enumerate(ROWS)}

    def order(cell: Cell) -> tuple:
        row, length = cell.row, cell.length
        place = rows.get(Row(row.dataset, row.ratio, "ce"), len(rows)), row.dataset, row.ratio
        epochs = -length.stage_1, -length.features, -length.classifier
        rank = PROTOCOLS.index(cell.protocol)
        return *place, methods.index(row.method), *epochs, cell.precision, cell.subset, rank

    found: dict[tuple[str, int], list[Cell]] = {}
    for cell in sorted(table, key=order):
        found.setdefault((cell.row.dataset, cell.row.ratio), []).append(cell)
    return found


def _table(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    yield "| method | row | length | precision | test | last | held-out | published | difference |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for line in dict.fromkeys(cell.line for cell in cells):
        row = line.row
        found = {p: entry(line.by(p), table[line.by(p)]) for p in PROTOCOLS if line.by(p) in table}
        tops = [_top1(found.get(protocol)) for protocol in PROTOCOLS]
        differences = [
            f"{e['difference']:+.2f} ({p})" for p, e in found.items() if e["difference"] is not None
        ]
        published = next(iter(found.values()))["published"]
        cut = "" if line.length.is_full(row) else ", **cut short**"
        yield (
            f"| {METHODS[row.method].title} | `{row.method}` | {line.length}{cut} | "
            f"{_precision(line, cells)} | "
            f"{' | '.join(tops)} | {published or ''} | {', '.join(differences)} |"
        )


def _precision(cell: Cell, cells: Sequence[Cell]) -> str:
    """And the subset, where the cells are of more than one."""
    is_told = len({c.subset for c in cells}) > 1
    return f"{cell.precision}, subset {cell.subset or 'unknown'}" if is_told else cell.precision


def _top1(found: dict | None) -> str:
    if found is None:
        return "not run"
    spread = "" if found["top1_std"] is None else f" ± {found['top1_std']:.2f}"
    return f"{found['top1_mean']:.2f}{spread} ({found['seeds']})"


def _details(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    heads = "row, length, precision, protocol, many, medium, few, NCM, epochs chosen, final epoch"
    heads += ", seconds"
    yield f"| {heads.replace(', ', ' | ')} |"
    yield "|---" * len(heads.split(", ")) + "|"
    for cell in cells:
        found = entry(cell, table[cell])
        values = (found[name] for name in (*GROUPS, "ncm"))
        accuracies = " | ".join("n/a" if v is None else f"{v:.2f}" for v in values)
        epochs = ", ".join(map(str, found["epochs"]))
        yield (
            f"| `{cell.row.method}` | {cell.length} | {_precision(cell, cells)} | "
            f"{cell.protocol} | {accuracies} | {epochs} | {found['final_epoch_top1']:.2f} | "
            f"{found['seconds']:.0f} |"
        )


def _not_run(table: Table) -> Iterator[str]:
    """Rows of the table with fewer full-length runs than wanted, and the command that makes
    them."""
    seeds = dict.fromkeys(((row, p) for row in ROWS for p in PROTOCOLS), 0)
    for cell, results in table.items():
        if cell.length.is_full(cell.row):
            key = cell.row, cell.protocol
            seeds[key] = max(seeds.get(key, 0), len(results))
    is_complete = True
    for dataset, ratio in dict.fromkeys((row.dataset, row.ratio) for row in ROWS):
        names = []
        for row in ROWS:
            counts = {p: seeds[row, p] for p in PROTOCOLS}
            if (row.dataset, row.ratio) == (dataset, ratio) and min(counts.values()) < WANTED_SEEDS:
                there = ", ".join(f"{p}: {count}" for p, count in counts.items() if count)
                names.append(f"`{row.method}`" + (f" (seeds by {there})" if there else ""))
        if names:
            is_complete = False
            yield f"- {DATASET_TITLES[dataset]}, r = {ratio}: {', '.join(names)}"
    if is_complete:
        yield f"Nothing: every row has been run at full length with {WANTED_SEEDS} seeds."
    else:
        yield f"\nAt full length ({FULL_LENGTH} epochs) with {WANTED_SEEDS} seeds. One command"
        yield "makes what is missing, and goes on where it was interrupted:\n"
        yield f"```sh\nmake table SEEDS={','.join(map(str, range(WANTED_SEEDS)))}\n```"


def _made(collection: Collection) -> Iterator[str]:
    chains = sorted(collection.chains, key=lambda c: (c.row, c.length, c.seed, c.protocol))
    machines = Counter(_machine(chain.run) for chain in chains)
    for machine, count in machines.items():
        yield f"- {count} run{'s' if count > 1 else ''} on {machine}"
    subsets = Counter((chain.row.dataset, chain.row.ratio, chain.subset) for chain in chains)
    for (dataset, ratio, subset), count in subsets.items():
        known = f"those whose fingerprint begins with {subset}" if subset else "not recorded"
        title = f"{DATASET_TITLES.get(dataset, dataset)}, r = {ratio}"
        yield f"- training images of {count} run{'s' if count > 1 else ''} on {title}: {known}"
    yield "\n| run | seed | commit | command |\n|---|---|---|---|"
    for chain in chains:
        commit = (chain.run.arguments.get("machine") or {}).get("commit") or "not recorded"
        command = chain.run.command.replace("|", "\\|")
        yield f"| {chain.row}, {chain.protocol} | {chain.seed} | {commit} | `{command}` |"
    if collection.others:
        yield "\nFinished runs that are no part of the table:\n"
        yield from (f"- `{folder.name}`: {reason}" for folder, reason in collection.others)


def _machine(run: RecordedRun) -> str:
    machine = run.arguments.get("machine") or {}
    names = ("processor", "device")
    known = [str(machine[name]) for name in names if machine.get(name)]
    versions = [f"{name} {machine[name]}" for name in ("python", "torch") if machine.get(name)]
    return ", ".join(known + versions) or "a machine that is not recorded"
