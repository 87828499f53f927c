"""What setup.cfg asks for: do the oldest versions work, and is anything known against those that pip takes today?

    python -m kit.dependencies lowest [PYTEST ARGUMENT...]   `make lowest`: the fast tests but for those of clusters
    python -m kit.dependencies audit                         `make audit-deps`: pip-audit, by PyPI's advisories

Each works in an environment of its own below .deps.
"""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".deps"
TESTS = ["-q", "-m", "not slow", *(f"tests/{name}" for name in ("unit", "contract", "wire", "green", "sim", "fault"))]


def wanted(extra: str = "") -> list[str]:
    """The requirements of the package, or of one of its extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = setup["options.extras_require"][extra] if extra else setup["options"]["install_requires"]
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def environment(name: str, *packages: str) -> Path:
    """The interpreter of a new environment with these."""
    folder = FOLDER / name
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
    return python


def lowest(arguments: list[str]) -> int:
    """The tests with the lowest version that each requirement allows, what those need themselves at its newest."""
    python = environment("lowest", *(line.replace(">=", "==") for line in wanted() + wanted("test")))
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "list"], check=True)
    return subprocess.run([python, "-m", "pytest", *(arguments or TESTS)], cwd=ROOT, check=False).returncode


def audit() -> int:
    """1 when a dependency has a known vulnerability, or when nothing can be known about one (--strict)."""
    python = environment("audit", "pip-audit")
    requirements = FOLDER / "requirements.txt"
    requirements.write_text("\n".join(wanted()) + "\n")
    return subprocess.run([python, "-m", "pip_audit", "--strict", "-r", requirements], check=False).returncode


if __name__ == "__main__":
    if sys.argv[1:2] == ["lowest"]:
        sys.exit(lowest(sys.argv[2:]))
    if sys.argv[1:] == ["audit"]:
        sys.exit(audit())
    sys.exit(__doc__)
