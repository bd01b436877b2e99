"""A page of the documentation as something to run: its commands, on the machines that it names, in its order.

alpha$ gemel node status HOME          run on alpha; `&` at its end: it goes on running there; `kill %1` ends it
> ADMIN-TOKEN                          typed when the command before asks
Send `alpha:a.json` to `beta:b.json`.  a file goes from one machine to another
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hosts import Host, HostProcess

_COMMAND = re.compile(r"(?P<machine>[a-z]+)\$ (?P<command>.+)")
_SEND = re.compile(r"Send `(\w+):([^`]+)` to `(\w+):([^`]+)`\.")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|^(Send `[^\n]*)$", re.MULTILINE | re.DOTALL)
_CAPITALS = re.compile(r"\b[A-Z]{3,}(?:-[A-Z]{2,})+\b")


@dataclass(frozen=True)
class Step:
    """One command on one machine, or a file that is sent: then `source` and `target` are (machine, path)."""

    machine: str = ""
    command: str = ""
    typed: tuple[str, ...] = ()
    source: tuple[str, str] = ("", "")
    target: tuple[str, str] = ("", "")


def steps_of(page: str) -> list[Step]:
    """The steps of a page, in order. A `console` block may hold nothing else; other blocks are not run."""
    steps: list[Step] = []
    for language, block, sent in _BLOCK.findall(page):
        if sent and (found := _SEND.fullmatch(sent)):
            steps.append(Step(source=(found[1], found[2]), target=(found[3], found[4])))
        for line in block.splitlines() if language == "console" else ():
            if line.startswith("> "):
                last = steps.pop()
                steps.append(Step(last.machine, last.command, (*last.typed, line[2:])))
                continue
            parsed = _COMMAND.fullmatch(line)
            assert parsed, f"not a command: {line}"
            steps.append(Step(parsed["machine"], parsed["command"]))
    return steps


@dataclass
class Walk:
    """The machines of a page, and what its CAPITALS stand for so far.

    Attributes:
        network: The hosts by name.
        folder: Each machine's working folder is in it.
        known: CAPITALS -> words.
        learn: Called with machine, command and output after each command; returns new CAPITALS.
        patience: Commands that begin so are tried again until they succeed, as a person would; seconds.
    """

    network: Mapping[str, Host]
    folder: Path
    known: dict[str, str]
    learn: Callable[[str, str, str], dict[str, str]]
    patience: Mapping[str, float]
    outputs: list[tuple[Step, str]] = field(default_factory=list)
    jobs: dict[str, list[HostProcess]] = field(default_factory=dict)

    def place(self, machine: str) -> Path:
        """The folder in which a machine's commands run."""
        folder = self.folder / machine
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(self, step: Step) -> str:
        """Do one step; returns what the command printed on stdout. Raises AssertionError when it fails."""
        if not step.machine:
            shutil.copyfile(self._path(*step.source), self._path(*step.target))
            return ""
        command = self._filled(step.command)
        if command == "kill %1":
            self.jobs[step.machine].pop(0).stop()
            return ""
        if command.endswith(" &"):
            log = self.folder / f"{step.machine}.{len(self.outputs)}.log"
            words = ["bash", "-c", f"exec {command.removesuffix(' &')}"]
            job = self.network[step.machine].start(step.machine, self._in_place(step.machine, words), log=log)
            self.jobs.setdefault(step.machine, []).append(job)
            output = ""
        else:
            output = self._patiently(step, command)
        self.known.update(self.learn(step.machine, step.command, output))
        self.outputs.append((step, output))
        return output

    def _patiently(self, step: Step, command: str) -> str:
        typed = "".join(f"{self._filled(line)}\n" for line in step.typed)
        patience = next((s for prefix, s in self.patience.items() if step.command.startswith(prefix)), 0.0)
        deadline = time.monotonic() + patience
        words = self.network[step.machine].enter(self._in_place(step.machine, ["bash", "-c", command]))
        while True:
            done = subprocess.run(
                words, input=typed, capture_output=True, text=True, timeout=900, check=False
            )
            if done.returncode == 0:
                return done.stdout
            said = f"{step.machine}$ {command}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
            assert time.monotonic() < deadline, said
            time.sleep(1.0)

    def _in_place(self, machine: str, words: list[str]) -> list[str]:
        place = self.place(machine)
        scripts = Path(sys.executable).parent
        return [
            *("env", "-C", str(place), f"HOME={place}", "OMP_NUM_THREADS=1"),
            f"PATH={scripts}:{os.environ['PATH']}:/usr/sbin:/sbin",
            *words,
        ]

    def _path(self, machine: str, name: str) -> Path:
        return self.network[machine].path(Path(name)) if name.startswith("/") else self.place(machine) / name

    def _filled(self, text: str) -> str:
        def word(found: re.Match[str]) -> str:
            name = found.group()
            assert name in self.known, f"nothing printed {name} so far"
            return self.known[name]

        return _CAPITALS.sub(word, text)
