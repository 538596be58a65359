"""The console command itself: what it lists, and what it must not import to do so."""

import importlib
import re
import subprocess
import sys

import pytest

from mvtrack.cli.main import COMMANDS
from mvtrack.cli.main import main as cli
from mvtrack.config.command_line import _flags

HEAVY = {"torch", "numpy", "cv2", "yaml", "einops"}


def loaded(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    program = f"import sys\nfrom mvtrack.cli.main import main\ntry: main({list(arguments)})\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", program + "sys.stderr.write(' '.join(sys.modules))"], capture_output=True, text=True
    )
    assert "usage: mvtrack" in done.stdout
    return set(done.stderr.split())


def test_commands_are_listed(capsys):
    for arguments in (["--help"], ["help"], []):
        assert cli(arguments) == (0 if arguments else 2)
        told = capsys.readouterr().out
        assert all(f"\n  {name} " in told for name in COMMANDS)


def test_listing_imports_nothing_heavy():
    assert not loaded("--help") & (HEAVY | {"argparse", "mvtrack.train"})


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_imports_nothing_heavy(command):
    assert not loaded("help", command) & HEAVY


@pytest.mark.parametrize("command", ["attention", "prepare", "pseudo-tracks", "reshoot", "track", "views"])
def test_what_to_do_when_memory_runs_out_names_options_of_the_command(command, monkeypatch):
    module, seen = importlib.import_module(COMMANDS[command][0]), []
    monkeypatch.setattr(module, "run", lambda *of: seen.append((of[0], of[4])) or 0)
    module.main([])
    [(cls, advice)] = seen
    named = set(re.findall(r"--[a-z-]+", advice.split("`")[0]))
    assert named
    assert named <= {flag.typed for flag in _flags(cls)}


@pytest.mark.parametrize("command", ["track", "pseudo-tracks"])
def test_help_of_tracking_names_its_own_model_and_what_may_be_typed(command, capsys):
    with pytest.raises(SystemExit):
        cli([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "default: the shipped tiny model with a tracking head" in told
    assert command == "track" or ("--query-frames 0,40,80|all " in told and "points; default: 30x52" in told)


def test_version_is_the_packages(capsys):
    from importlib import metadata

    assert cli(["--version"]) == 0
    assert capsys.readouterr().out == f"mvtrack {metadata.version('mvtrack')}\n"


def test_module_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "mvtrack", "exprot"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mvtrack: unknown command 'exprot'; did you mean 'export'?\n"


def test_exports_are_there_and_complete():
    import mvtrack

    for name in mvtrack.__all__:
        assert getattr(mvtrack, name).__name__ == name
    assert set(mvtrack.__all__) <= set(dir(mvtrack))
    with pytest.raises(AttributeError, match="no attribute 'reshot'"):
        mvtrack.reshot  # noqa: B018
