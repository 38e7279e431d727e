"""Folders of runs that were not trained, under the names that their flags give them."""

import json

from utils.options.parse import parse_options
from utils.runs.folders import run_folder

FLAGS = "--dataset digits -a resnet20 --augment none --seed 0 -b 64"
STAGE_2 = "--epochs 2 --balanced_clf_nepochs 1 --feat_loss ce,robust_loss --cls_loss ce"


def options_of(*flags):
    return parse_options(" ".join(flags).split())


def made(flags, root="checkpoint", **recorded):
    """Makes the folder of a run, with a record of its options and an empty checkpoint."""
    options = options_of(flags)
    folder = run_folder(options).models
    folder.mkdir(parents=True)
    arguments = options.as_dict() | {"seed": 5 if options.seed is None else options.seed}
    (folder / "args.json").write_text(json.dumps(arguments | recorded))
    (folder / "ckpt.best.pth.tar").touch()
    return folder
