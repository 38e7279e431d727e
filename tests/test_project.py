"""The project as a whole: what it needs, the flags it promises, its examples."""

import argparse
import contextlib
import doctest
import importlib
import io
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from utils.options.flags import Options
from utils.options.parse import build_parser, parse_options
from utils.reproduce.__main__ import _parser
from utils.reproduce.rows import select_recipes, select_rows
from utils.reproduce.sharing import check_passed_on

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "losses", "datasets", "utils", "benchmarks")
SOURCES = [ROOT / "main.py", *(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))]


def module_of(path):
    name = str(path.relative_to(ROOT)).removesuffix(".py").removesuffix("/__init__")
    return name.replace("/", ".")


def test_the_conda_environment_installs_the_requirements():
    assert (ROOT / "requirements.yml").read_text().splitlines() == [
        "name: dro-lt",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        "  - python>=3.11,<3.15",
        "  - pip",
        "  - pip:",
        "      - -r requirements.txt",
    ]


RELEASED_FLAGS = [
    (("--dataset",), "cifar10"),
    (("-a", "--arch"), "resnet32"),
    (("--loss_type",), "CE"),
    (("--train_rule",), "None"),
    (("--imb_type",), "exp"),
    (("--imb_factor",), 0.01),
    (("--rand_number",), 0),
    (("--exp_str",), "0"),
    (("-j", "--workers"), 20),
    (("--epochs",), 200),
    (("--start-epoch",), 0),
    (("-b", "--batch-size"), 128),
    (("--lr", "--learning-rate"), 0.1),
    (("--momentum",), 0.9),
    (("--wd", "--weight-decay"), 1e-4),
    (("-p", "--print-freq"), 10),
    (("--resume",), False),
    (("-e", "--evaluate", "--evaluation"), False),
    (("--seed",), None),
    (("--gpu",), None),
    (("--root_log",), "checkpoint"),
    (("--root_model",), "checkpoint"),
    (("--pretrained",), None),
    (("--feat_loss",), None),
    (("--feat_sampler",), None),
    (("--feat_lr",), 0.01),
    (("--cls_loss",), None),
    (("--cls_sampler",), None),
    (("--cls_lr",), 0.01),
    (("--temperature",), 0.07),
    (("--margin",), 0.1),
    (("--margin_type",), "learned"),
    (("--balanced_clf_nepochs",), 20),
]

OUR_FLAGS = [
    (("--data_root",), "./data"),
    (("--select_on",), "test"),
    (("--robust_weight",), None),
    (("--robust_distance",), "euclidean"),
    (("--as_released",), False),
    (("--overwrite",), False),
    (("--precision",), "float32"),
    (("--schedule",), "absolute"),
    (("--list_root",), None),
    (("--image_size",), None),
    (("--normalisation",), "auto"),
    (("--stream",), "auto"),
    (("--mixup",), 0.0),
    (("--heldout_fraction",), 0.0),
    (("--test_fraction",), 0.2),
    (("--backbone",), None),
    (("--teacher",), None),
    (("--teacher_weight",), 0.5),
    (("--teacher_temperature",), 2.0),
    (("--head",), "linear"),
    (("--warmup",), 5),
]


def actions():
    return [a for a in build_parser()._actions if not isinstance(a, argparse._HelpAction)]


@pytest.mark.parametrize(
    ("names", "default"), RELEASED_FLAGS + OUR_FLAGS, ids=lambda value: str(value)
)
def test_every_promised_flag_is_there_with_its_default(names, default):
    found = {name: action for action in actions() for name in action.option_strings}
    assert len({id(found[name]) for name in names}) == 1
    action = found[names[0]]
    value = getattr(parse_options([]), action.dest)
    assert value == default and type(value) is type(default)


@pytest.mark.parametrize("flag", ["--resume", "--evaluation", "--as_released", "--overwrite"])
def test_booleans_have_several_spellings_and_the_bare_flag_means_true(flag):
    name = flag.removeprefix("--")
    for words, value in (
        ([], False),
        ([flag], True),
        *(([flag, text], True) for text in ("True", "true", "1", "YES")),
        *(([flag, text], False) for text in ("False", "FALSE", "0", "no")),
    ):
        assert getattr(parse_options(words), name) is value


CHOICES = {
    "dataset": {
        *("cifar10", "cifar100", "digits", "folder", "csv", "npz"),
        *("imagenet_lt", "inaturalist18"),
    },
    "arch": {*(f"resnet{n}" for n in (20, 32, 44, 56, 110, 1202, 10, 18, 34, 50)), "resnext50"},
    "loss_type": {"CE", "Focal", "LDAM", "BS"},
    "train_rule": {"None", "Resample", "Reweight", "DRW"},
    "imb_type": {"exp", "step", "natural"},
    "margin_type": {"learned", "shared", "sample_count"},
    "select_on": {"test", "heldout", "last"},
    "augment": {"none", "crop_flip", "autoaugment"},
    "precision": {"float32", "tf32", "bf16"},
    "head": {"linear", "cosine"},
    "schedule": {"absolute", "scaled", "cosine"},
    "normalisation": {"auto", "cifar", "imagenet"},
}


@pytest.mark.parametrize("name", CHOICES)
def test_every_promised_choice_is_there(name):
    [action] = [a for a in actions() if a.dest == name]
    assert set(action.choices) >= CHOICES[name]


@pytest.mark.parametrize("loss", ["ce", "ce_lt", "ce_bal", "bs"])
def test_every_promised_loss_of_stage_2_is_taken(loss):
    flags = ["--pretrained", "X", "--feat_loss", f"{loss},robust_loss", "--cls_loss", loss]
    options = parse_options(flags)
    assert (options.feat_loss, options.cls_loss) == (f"{loss},robust_loss", loss)


def test_the_augmentation_follows_the_stage():
    assert parse_options([]).augment == "crop_flip"
    stage_2 = ["--pretrained", "X", "--feat_loss", "ce", "--cls_loss", "ce"]
    assert parse_options(stage_2).augment == "autoaugment"


def test_options_are_what_the_parser_gives():
    assert [field.name for field in fields(Options)] != []
    assert {field.name for field in fields(Options)} == {action.dest for action in actions()}


@pytest.fixture(scope="module")
def help_text():
    """Of a process of its own, as a user starts it, on a terminal of 80 columns."""
    ran = subprocess.run(
        [sys.executable, "main.py", "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_help_is_grouped(help_text):
    headings = re.findall(r"^(\S.*):$", help_text, flags=re.MULTILINE)
    for topic in ("data", "stage 1", "stage 2", "training", "machine", "records"):
        assert any(topic in heading for heading in headings), topic
    for group in build_parser()._action_groups:
        if group.title not in ("positional arguments", "options"):
            assert group.title in headings
            assert 2 <= len(group._group_actions) <= 15, group.title
    described = help_text.split("\n\n", 1)[1]  # after the usage
    for action in actions():
        assert action.option_strings[-1] in described


def test_help_fits_a_terminal_of_80_columns(help_text):
    assert [line for line in help_text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("name", [action.dest for action in actions()])
def test_every_flag_has_help_with_its_default(name):
    [action] = [a for a in actions() if a.dest == name]
    text = (action.help or "").replace("%%", "%")
    shown = re.search(r"\(default: ([^)]*)\)$", text)
    assert len(text) > 15
    assert shown, f"{action.option_strings[-1]}: {text!r} names no default"
    if action.default is not None:
        assert shown[1] == str(action.default)


def test_help_names_every_choice(help_text):
    for action in actions():
        for choice in action.choices or ():
            assert choice in help_text


@pytest.mark.parametrize("folder", ["results", "pretrained", "tests"])
def test_paths_fit_into_every_file_system(folder):
    """An encrypted home folder allows names of 143 bytes."""
    paths = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*")]
    assert max(len(str(path).encode()) for path in paths) <= 200
    assert max(len(path.name.encode()) for path in paths) <= 143


MODULES = [
    info.name
    for package in PACKAGES
    for info in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
] + ["main", *PACKAGES]


WITH_EXAMPLES = sorted(module_of(path) for path in SOURCES if ">>>" in path.read_text())


def test_every_source_file_is_a_module_that_can_be_imported():
    assert {module_of(path) for path in SOURCES} == set(MODULES)
    for name in MODULES:
        importlib.import_module(name)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_the_docstrings_run(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0 and results.failed == 0


def test_the_robust_loss_has_an_example():
    assert "losses.dro" in WITH_EXAMPLES


DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "pretrained/README.md",
    ROOT / "results/RESULTS.md",
]
by_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def code_blocks(text, *languages):
    """Contents of the fenced blocks in one of these languages."""
    blocks, current = [], None
    for line in text.splitlines():
        if line.startswith("```"):
            if current is None:
                current = (line.removeprefix("```").strip(), [])
            else:
                language, lines = current
                if language in languages:
                    blocks.append("\n".join(lines))
                current = None
        elif current is not None:
            current[1].append(line)
    assert current is None, "a code block is not closed"
    return blocks


def commands_of(path):
    """The words of each command in a document's shell blocks and sentences, comments left out. The
    commands of the table's records are not among them: those are for earlier versions."""
    text = path.read_text().split("<summary>Commits and commands")[0]
    blocks = code_blocks(text, "sh", "bash", "console", "shell")
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    sentences = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"`((?:python|make) [^`]+)`", sentences)
    return [words for line in lines if (words := line.removeprefix("$ ").split("#")[0].split())]


def test_the_readme_has_160_lines_at_most():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


@by_document
def test_the_python_examples_run(path, tmp_path, monkeypatch):
    """One after the other, in one namespace, in an empty folder."""
    blocks = code_blocks(path.read_text(), "python")
    if path == ROOT / "README.md":
        assert any("DROLoss" in block for block in blocks), "none of them uses the robust loss"
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__document__"}
    with contextlib.redirect_stdout(io.StringIO()):
        for number, block in enumerate(blocks, 1):
            exec(compile(block, f"{path}, python block {number}", "exec"), namespace)


def test_the_readme_has_the_papers_commands():
    commands = [words[2:] for words in commands_of(ROOT / "README.md")]
    for command in PAPERS_COMMANDS:
        assert command.split() in commands
    assert "--evaluation True" in (ROOT / "README.md").read_text()


@by_document
def test_every_command_for_main_parses(path):
    for words in commands_of(path):
        if "main.py" in words and "--help" not in words:
            parse_options(words[words.index("main.py") + 1 :])


@by_document
def test_every_module_and_target_of_a_command_exists(path):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for words in commands_of(path):
        if words[:2] == ["python", "-m"]:
            place = ROOT / words[2].replace(".", "/")
            is_module = place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
            assert is_module or words[2] in ("pytest", "pip"), " ".join(words)
        if words[0] == "make":
            named = [word for word in words[1:2] if "=" not in word]
            assert set(named) <= targets, " ".join(words)


def flags_read_by(module):
    """The flags of its own that a program names."""
    place = ROOT / module.replace(".", "/")
    files = place.glob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    return set(re.findall(r'"(--?[\w-]+)"', "".join(file.read_text() for file in files)))


TAKE_FLAGS_OF_MAIN = ("benchmarks.true_centroids", "datasets.pack", "utils.reproduce")


@by_document
def test_every_flag_of_another_program_exists(path):
    of_main = {name for action in actions() for name in action.option_strings}
    for words in commands_of(path):
        if words[:2] == ["python", "-m"] and words[2] not in ("pytest", "pip"):
            given = {w.strip("[]").split("=")[0] for w in words if w.startswith(("--", "[--"))}
            others = of_main if words[2] in TAKE_FLAGS_OF_MAIN else set()
            assert given <= flags_read_by(words[2]) | others, " ".join(words)


@by_document
def test_every_command_for_the_table_parses(path):
    for words in commands_of(path):
        if words[:3] == ["python", "-m", "utils.reproduce"]:
            found, extra = _parser().parse_known_args(words[3:])
            check_passed_on(extra, found.dataset)
            rows = found.rows and found.rows.replace("NAME", "ce")
            select_recipes(rows) if found.dataset else select_rows(rows)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_hands_rows_seeds_and_flags_to_the_table():
    argv = ["make", "-n", "table", "ROWS=cifar100/100", "SEEDS=0,1", "FLAGS=--stage2 9+3 --gpu 0"]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [words] = [line.split() for line in said.splitlines() if "utils.reproduce" in line]
    found, extra = _parser().parse_known_args(words[words.index("utils.reproduce") + 1 :])
    assert (found.rows, found.seeds, found.stage2) == ("cifar100/100", [0, 1], (9, 3))
    assert extra == ["--gpu", "0"]


PAPERS_COMMANDS = [
    "--gpu 1 --dataset cifar100 --imb_type exp --imb_factor 0.01 --loss_type CE --train_rule None",
    "--gpu 1 --dataset cifar100 --imb_type exp --imb_factor 0.01 --resume True --epochs 100 "
    "--pretrained cifar100_resnet32_CE_None_exp_0.01_0 --feat_sampler resample,4 --feat_lr 0.005 "
    "--feat_loss ce_lt,robust_loss --cls_sampler none --cls_lr 0.01 --cls_loss ce --temperature 1 "
    "-b 128 --margin 1 --margin_type learned",
]


@by_document
def test_every_link_leads_somewhere(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{path} links to {target}"


@by_document
def test_the_files_that_a_document_names_exist(path):
    """A name with a folder is the whole path from the top."""
    text = path.read_text()
    for name in set(re.findall(r"`([\w/]+/[\w]+\.(?:py|txt|yml|json))`", text)):
        is_pattern = name.endswith("/NAME.py")
        assert is_pattern or (ROOT / name).exists(), f"{path}: {name}"
