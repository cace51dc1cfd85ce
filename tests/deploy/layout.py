"""What the files under deploy/ agree on, each said once."""

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
    """One instruction of a Dockerfile; `stage` counts from 0."""

    stage: int
    word: str
    text: str

    def settings(self) -> dict[str, str]:
        """What an ENV sets."""
        pairs = (pair.partition("=") for pair in shlex.split(self.text))
        return {name: value for name, _, value in pairs}


def dockerfile() -> list[Step]:
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
    steps, stage = [], -1
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        stage += word == "FROM"
        if word:
            steps.append(Step(stage, word, rest.strip()))
    return steps


def secret_files() -> set[str]:
    """The names that deploy/connector.toml reads below SECRETS."""
    text = (DEPLOY / "connector.toml").read_text()
    return set(re.findall(re.escape(f"${{file:{SECRETS}/") + r"(\w+)}", text))
