"""Paths and names that the files under deploy/ share, and a parser for the Dockerfile."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from tests.paths import ROOT

DEPLOY = ROOT / "deploy"
UID = 10001
CONFIG = "/etc/connector/connector.toml"
STATE = "/var/lib/connector"
SECRETS = "/run/secrets/connector"
MAPPINGS = "/usr/share/connector/mappings"


@dataclass(frozen=True)
class Step:
    """One instruction of the Dockerfile. `stage`: number of the build stage from 0."""

    stage: int
    instruction: str
    text: str

    def settings(self) -> dict[str, str]:
        """The variables of an ENV instruction."""
        pairs = (pair.partition("=") for pair in shlex.split(self.text))
        return {name: value for name, _, value in pairs}


def dockerfile() -> list[Step]:
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
    steps, stage = [], -1
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        stage += instruction == "FROM"
        if instruction:
            steps.append(Step(stage, instruction, rest.strip()))
    return steps


def secret_files() -> set[str]:
    """The files below SECRETS that deploy/connector.toml reads."""
    text = (DEPLOY / "connector.toml").read_text()
    return set(re.findall(re.escape(f"${{file:{SECRETS}/") + r"(\w+)}", text))
