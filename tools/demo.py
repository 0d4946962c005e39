"""The one command: makes an environment of its own, and a grid of pictures in it. Needs Python 3.10 or newer alone.

python tools/demo.py [options of miniature.demo]
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-demo"
_PROJECT = ROOT / "pyproject.toml"
_DONE = ENVIRONMENT / "installed"  # a copy of the pyproject.toml that was installed; written last


def main() -> int:
    """Install what is missing, once, and run the demo."""
    if sys.version_info < (3, 10):  # noqa: UP036 - any Python may start this file
        print("Python 3.10 or newer is needed", file=sys.stderr)
        return 1
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    try:
        wanted = _PROJECT.read_bytes()
        if not _DONE.exists() or _DONE.read_bytes() != wanted:
            print(f"Installing into {ENVIRONMENT}: once, a few minutes", flush=True)
            venv.create(ENVIRONMENT, with_pip=True, clear=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[demo]"], check=True)
            _DONE.write_bytes(wanted)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run([python, "-m", "miniature.demo", *sys.argv[1:]], env=environment, check=False).returncode
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"The environment could not be made: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command begins again.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
