"""The worker images and the compose file agree with constraints.txt and setup.py; they cannot be built here."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "pipelines" / "containers"
IMAGES = sorted(CONTAINERS.glob("Dockerfile*"))
BEAM = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if re.match(r"[\w.-]+==", line)
)["apache-beam"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instruction and arguments of each line that is no comment."""
    lines = [line for line in path.read_text().replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_there_is_one_for_cpu_and_one_for_cuda():
    assert [path.name for path in IMAGES] == ["Dockerfile", "Dockerfile.cuda"]


@pytest.fixture(scope="module")
def hadolint() -> str:
    """The linter, as pip installs it beside this Python."""
    found = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    return found or pytest.skip("hadolint is not installed: pip install '.[test]'")


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_the_linter_finds_nothing(hadolint, path):
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_would_find_something(hadolint, tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text(IMAGES[0].read_text() + "COPY --from=nowhere a b\nRUN pip install requests\n")
    done = subprocess.run([hadolint, "--no-color", bad], capture_output=True, text=True)
    assert done.returncode == 1
    assert {"DL3022", "DL3042"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_has_beams_boot_of_the_pinned_version(path):
    found = instructions(path)
    python = next(arguments for name, arguments in found if name == "FROM" and arguments.startswith("python:"))
    version = re.match(r"python:([\d.]+)-slim", python)[1]
    assert ("FROM", f"apache/beam_python{version}_sdk:{BEAM} AS beam") in found
    assert ("COPY", "--from=beam /opt/apache/beam /opt/apache/beam") in found
    assert found[-1] == ("ENTRYPOINT", '["/opt/apache/beam/boot"]')
    lowest = re.search(r'python_requires=">=([\d.]+)"', (ROOT / "setup.py").read_text())[1]
    assert tuple(map(int, version.split("."))) >= tuple(map(int, lowest.split(".")))


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_installs_by_constraints_what_it_copies(path):
    found = instructions(path)
    installs = [arguments for name, arguments in found if name == "RUN" and "pip install" in arguments]
    assert installs
    assert all("-c constraints.txt" in arguments for arguments in installs)
    sources = [
        part
        for name, arguments in found
        if name == "COPY" and "--from" not in arguments
        for part in arguments.split()[:-1]
    ]
    assert {"constraints.txt", "setup.py", "README.md", "schemas", "rag_ops", "pipelines"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)


def test_the_job_server_is_beams_pinned_version_for_the_clusters_flink():
    services = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())["services"]
    flinks = {services[name]["image"] for name in ("jobmanager", "taskmanager")}
    flink = re.fullmatch(r"flink:([\d.]+)-java11", flinks.pop())[1]
    assert not flinks
    assert services["jobserver"]["image"] == f"apache/beam_flink{flink}_job_server:{BEAM}"
    assert services["workers"]["network_mode"] == "service:taskmanager"


def test_what_the_compose_file_publishes_is_open_to_this_machine_alone():
    services = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 4
    assert all(port.startswith("127.0.0.1:") for port in published)
