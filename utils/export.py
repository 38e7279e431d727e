"""Small checkpoints of a finished run, to be published: weights and what they are, without the
state that only going on needs.

    python -m utils.export RUN [--output DIR] [--last]

copies the best checkpoints of the run's folder into a folder of the same name below DIR
(`pretrained`); a stage 2 goes into the folder of its stage 1, as `--pretrained` and `--evaluation`
look for it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError
from utils.options.parse import Parser
from utils.reproduce.chains import place_of
from utils.runs.folders import BEST_CHECKPOINT, LAST_CHECKPOINT, PRETRAINED, best_by
from utils.runs.records import read_run

KEPT = (
    *("epoch", "arch", "state_dict", "best_acc1", "stage", "dataset", "class_counts"),
    *("fingerprint", "data", "selected_on", "results", "epsilons"),
)


def export(folder: Path, output: Path, with_last: bool) -> list[Path]:
    """Writes the slim checkpoints; their paths.

    Args:
        folder: of a finished run.
        output: below which they go.
        with_last: the last epoch's too, from which `--select_on last` starts.

    Raises:
        UserError: no finished run, or a damaged checkpoint.
    """
    run = read_run(folder)
    if not run.is_finished:
        raise UserError(f"{folder}: this run is not finished (no summary.json)")
    from utils.runs import checkpoint

    names = [BEST_CHECKPOINT, *(best_by(protocol) for protocol in ("test", "heldout"))]
    names += [LAST_CHECKPOINT] * with_last
    found = [name for name in names if (folder / name).is_file()]
    slim = {}
    for name in found:
        content = checkpoint.load(folder / name)
        slim[name] = {key: content[key] for key in KEPT if key in content}
    target = output / place_of(folder, run.stage)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in slim.items():
        checkpoint.save(target / name, content)
    return [target / name for name in found]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 a file could not be written, 2 bad input."""
    parser = Parser(
        prog="python -m utils.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--output", type=Path, default=PRETRAINED, help="(default: pretrained)")
    parser.add_argument("--last", action="store_true", help="the last epoch's checkpoint too")
    try:
        arguments = parser.parse_args(argv)
        for path in export(arguments.run, arguments.output, arguments.last):
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    except UserError as error:
        print(f"export: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        message = f"{error.filename or 'a file'}: {error.strerror or error}"
        print(f"export: error: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
