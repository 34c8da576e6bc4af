"""What runs by itself calls what exists: hosted CI, the hooks before a commit, CONTRIBUTING and the changelog."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
CI: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
JOBS: dict[str, Any] = CI["jobs"]
HOOKS: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def project(room: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / room / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def steps(job: str, action: str) -> list[dict[str, Any]]:
    """The inputs of the steps of a job that use an action."""
    return [step.get("with", {}) for step in JOBS[job]["steps"] if step.get("uses", "").startswith(f"{action}@")]


def scripts(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def pythons(job: str) -> list[str]:
    (given,) = (step["python-version"] for step in steps(job, "actions/setup-python"))
    return JOBS[job]["strategy"]["matrix"]["python"] if given.startswith("$") else [given]


def least(room: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", project(room)["requires-python"]))


# hosted CI


def test_every_change_is_tried() -> None:
    # YAML 1.1 reads the key `on` as true.
    assert set(CI[True]) == {"push", "pull_request"}  # type: ignore[index]
    assert CI["permissions"] == {"contents": "read"}
    assert CI["env"]["PIP_EXTRA_INDEX_URL"].endswith("/whl/cpu")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_calls_what_exists(job: str) -> None:
    assert JOBS[job].get("needs", job) in JOBS
    for script in scripts(job):
        words = shlex.split(script)
        if words[0] == "make":
            assert set(words[1:]) <= TARGETS
        else:
            assert words[0] in {"pip", "python"} or words[:3] == ["sudo", "apt-get", "install"], script
    for step in steps(job, "actions/setup-python"):
        assert step["cache"] == "pip"
        assert [path for path in step["cache-dependency-path"].split() if not (ROOT / path).is_file()] == []


def test_the_gate_is_the_readmes() -> None:
    assert scripts("gate") == ["make test"]
    assert pythons("gate") == ["3.11"]


def test_the_device_installs_the_runtime_alone_on_the_pythons_of_jetpack() -> None:
    assert pythons("device") == ["3.10", "3.12"]
    assert all(tuple(map(int, version.split("."))) >= least("runtime") for version in pythons("device"))
    (install,) = (script for script in scripts("device") if script.startswith("pip"))
    (place, extras) = re.findall(r"\./(\w+)\[([\w,]+)\]", install)[0]
    assert shlex.split(install) == ["pip", "install", f"./{place}[{extras}]"]
    assert set(extras.split(",")) <= project(place)["optional-dependencies"].keys()


def test_the_device_is_tried_as_make_test_wheel_does() -> None:
    (smoke,) = (step for step in JOBS["device"]["steps"] if "smoke.py" in step.get("run", ""))
    assert f"cd {smoke['working-directory']} && device/bin/{smoke['run']}" in MAKEFILE
    path = shlex.split(smoke["run"])[2]
    assert (ROOT / "a" / "b" / path).resolve() == ROOT / "tests/smoke.py"
    (sent,), (fetched,) = steps("wheel", "actions/upload-artifact"), steps("device", "actions/download-artifact")
    assert JOBS["device"]["needs"] == "wheel"
    assert scripts("wheel") == ["make test-wheel"]
    assert (sent["name"], sent["path"]) == (fetched["name"], fetched["path"])
    assert sent["path"] == f"{smoke['working-directory']}/{shlex.split(smoke['run'])[-1]}"


def test_every_proof_runs_and_says_so_in_the_table() -> None:
    proofs = {path.stem for path in (ROOT / "tests/proof").glob("*.py") if "__main__" in path.read_text()}
    proofs -= {"triton_clients", "damage", "killed"}  # parts of the proofs triton, damaged and kills
    long = {"kills", "soak"}  # together an hour or more: by hand, not in CI
    assert proofs - long == {"arm", "damaged", "fleet", "gstreamer", "pythons", "triton", "v4l2"}
    for name in sorted(long):
        assert f"\tnice -n 10 $(BIN)/python -m tests.proof.{name}\n" in MAKEFILE.partition("\nsoak: setup\n")[2]
    for name in proofs - long:
        assert f"test-{name}: setup\n\t$(BIN)/python -m tests.proof.{name}\n" in MAKEFILE
        assert name == "v4l2" or scripts(name)[-1] == f"make test-{name}"  # the gate has the tests of v4l2
        assert (ROOT / f"benchmarks/results/proof-{name}.json").is_file()


# hooks


def test_hooks_run_the_tools_of_the_gate() -> None:
    local = [hook for repo in HOOKS["repos"] if repo["repo"] == "local" for hook in repo["hooks"]]
    assert [hook["id"] for hook in local] == ["ruff-check", "ruff-format", "mypy"]
    tools = {re.split(r"[>=<]", name)[0] for name in project("")["optional-dependencies"]["dev"]}
    for hook in local:
        tool, *arguments = hook["entry"].removeprefix(".venv/bin/").split()
        assert tool in tools
        command = " ".join([tool, *(word for word in arguments if not word.startswith("-"))])
        assert f"$(BIN)/{command}" in MAKEFILE
        assert hook["language"] == "system"


def test_hooks_refuse_large_files_and_conflicts() -> None:
    others = {hook["id"] for repo in HOOKS["repos"] if repo["repo"] != "local" for hook in repo["hooks"]}
    assert {"check-added-large-files", "check-merge-conflict"} <= others
    assert all(repo["rev"] for repo in HOOKS["repos"] if repo["repo"] != "local")


# pages


def test_contributing_names_what_exists() -> None:
    for block in re.findall(r"```sh\n(.*?)```", CONTRIBUTING, re.DOTALL):
        for line in block.splitlines():
            command, *words = shlex.split(line, comments=True)
            assert command in {"make", "pip", "pre-commit", ".venv/bin/pytest"}, line
            if command == "make":
                assert set(words) <= TARGETS
    named = {*re.findall(r"\]\(([^)#]+)\)", CONTRIBUTING), *re.findall(r"`([\w.-]+/[\w./-]*)`", CONTRIBUTING)}
    assert len(named) > 15
    written = {name for name in named if name.startswith("build/")}  # by a target, so not in a fresh checkout
    assert [name for name in sorted(named - written) if not (ROOT / name).exists()] == []


def test_contributing_links_to_every_page() -> None:
    pages = {f"docs/contributing/{path.name}" for path in (ROOT / "docs/contributing").glob("*.md")}
    assert set(re.findall(r"\]\((docs/contributing/[^)]+)\)", CONTRIBUTING)) == pages


def test_the_changelog_keeps_its_form() -> None:
    versions = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    kinds = re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert not re.search(r"^#{2,3} .*\n+(?=#{2,3} |\Z)", CHANGELOG.split("## [Unreleased]\n\n")[1], re.MULTILINE)
