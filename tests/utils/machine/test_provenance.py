"""The commit that a run records."""

import os
import shutil
import subprocess

import pytest

from utils.machine import provenance

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


@pytest.fixture(autouse=True)
def without_git_of_others(monkeypatch):
    """A hook has a GIT_DIR, which wins over -C, and a user may have hooks and templates."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def git(folder, *arguments):
    settings = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", *settings, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_repository_is_the_folder_of_the_program():
    assert (provenance.REPOSITORY / "main.py").is_file()


@needs_git
def test_the_commit_is_named_and_changed_files_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    assert provenance.commit() is None
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    name = git(tmp_path, "rev-parse", "HEAD")[:10]
    assert provenance.commit() == name
    (tmp_path / "untracked").write_text("")
    assert provenance.commit() == name
    (tmp_path / "file").write_text("two")
    assert provenance.commit() == f"{name}+changes"


@needs_git
def test_the_repository_of_a_hook_is_not_taken_for_the_programs(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "-m", "one", "--allow-empty")
    name = git(tmp_path, "rev-parse", "HEAD")[:10]
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert provenance.commit() == name


@needs_git
def test_the_index_is_left_alone(tmp_path, monkeypatch):
    """`git status` writes the index anew if a file has another time, and locks it for that."""
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    os.utime(tmp_path / "file", (1, 1))
    index = (tmp_path / ".git" / "index").read_bytes()
    assert not provenance.commit().endswith("+changes")
    assert (tmp_path / ".git" / "index").read_bytes() == index
    git(tmp_path, "status")
    assert (tmp_path / ".git" / "index").read_bytes() != index
