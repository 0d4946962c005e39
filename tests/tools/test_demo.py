"""The one command in a small project of its own: real environments, real pip, nothing large to install."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = """
[project]
name = "small"
version = "1"
[project.optional-dependencies]
demo = []
[build-system]
requires = ["setuptools>=69"]
build-backend = "setuptools.build_meta"
[tool.setuptools]
packages = []
"""
DEMO = """
import sys, time
print("demo", sys.prefix, *sys.argv[1:], flush=True)
if "wait" in sys.argv:
    time.sleep(60)
sys.exit(7)
"""
INSTALLING = "Installing into"

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "demo.py", tmp_path / "tools")
    (tmp_path / "miniature").mkdir()
    (tmp_path / "miniature" / "demo.py").write_text(DEMO)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    return tmp_path


def demo(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "tools" / "demo.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=project.parent)


def test_it_installs_once_and_hands_arguments_and_status_through(project: Path) -> None:
    first = demo(project, "--prompt", "a {} in the snow")
    assert INSTALLING in first.stdout
    environment = project / ".venv-demo"
    assert f"demo {environment} --prompt a {{}} in the snow" in first.stdout
    assert first.returncode == 7
    second = demo(project)
    assert INSTALLING not in second.stdout
    assert second.stdout == f"demo {environment}\n"

    # Another version of the project needs another environment; what is missing in it is said, and tried again.
    (project / "pyproject.toml").write_text(PROJECT.replace("demo = []", 'demo = ["no-such-package-of-alignit==9"]'))
    for _ in range(2):
        failed = demo(project)
        assert failed.returncode == 1
        assert INSTALLING in failed.stdout
        assert "The environment could not be made" in failed.stderr
        assert "Traceback" not in failed.stderr
    (project / "pyproject.toml").write_text(PROJECT)
    assert demo(project).returncode == 7


@pytest.mark.skipif(os.name == "nt", reason="signals of terminals are other ones there")
def test_stopped_by_hand_it_says_so_and_no_more(project: Path) -> None:
    assert demo(project).returncode == 7
    # Where the tests run in the background they ignore the signal, and so would all that they start.
    heeding = "import os, signal as s, sys; s.signal(s.SIGINT, s.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", heeding, sys.executable, str(project / "tools" / "demo.py"), "wait"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen(command, text=True, cwd=project.parent, start_new_session=True, **pipes)
    assert started.stdout is not None
    assert started.stdout.readline().startswith("demo")
    os.killpg(started.pid, signal.SIGINT)  # as Ctrl-C in a terminal: to all of them
    _, said = started.communicate(timeout=30)
    assert started.returncode == 130
    assert said.endswith("Stopped. The same command begins again.\n")
